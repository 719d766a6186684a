"""Tasks of the training loop: the world model in its stages, the autoencoder, previews, and runs from end to end."""
