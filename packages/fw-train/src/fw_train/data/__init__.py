"""Training samples from an annotated dataset, and the cache of precomputed latents and embeddings."""
