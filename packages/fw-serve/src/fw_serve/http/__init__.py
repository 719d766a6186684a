"""Below the routes: connection limits, middleware, metrics and traces. Imports neither torch nor the model."""
