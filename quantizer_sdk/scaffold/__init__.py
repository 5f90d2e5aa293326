"""The package that a new backend starts from."""
