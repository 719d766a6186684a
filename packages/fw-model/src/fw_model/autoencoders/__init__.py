"""Video autoencoders with one latent shape: a fixed transform, a small learned one, and the Wan VAE."""
