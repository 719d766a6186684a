"""The process that holds the model. It alone may import torch; the service starts it and watches over it."""
