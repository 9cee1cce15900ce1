"""A fair load: what each backend costs over HTTP, every answer checked."""
