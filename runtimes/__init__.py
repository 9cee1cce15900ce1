"""One module per backend, each with `open_model(path, *, device) -> Runtime`; imported only when it is asked for."""
