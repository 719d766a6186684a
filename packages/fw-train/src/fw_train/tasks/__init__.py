"""What is trained: the world model and the autoencoder, the stages and their losses, and a run from end to end."""
