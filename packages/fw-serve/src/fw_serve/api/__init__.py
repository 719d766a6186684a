"""The HTTP side: routes, their words, and what guards them. Imports neither torch nor the model."""
