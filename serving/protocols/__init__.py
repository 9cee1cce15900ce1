"""What the bytes mean: requests read, answers written. No protocol knows a socket or a model."""
