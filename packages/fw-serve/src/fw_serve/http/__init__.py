"""What every request passes: connection limits, middleware, metrics and traces. Imports neither torch nor the model."""
