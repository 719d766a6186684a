"""The HTTP API: the application, its routes, schemas and errors. Imports neither torch nor the model."""
