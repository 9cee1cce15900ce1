"""The ground floor: the contract, the data, the model store and the errors that every room shares."""
