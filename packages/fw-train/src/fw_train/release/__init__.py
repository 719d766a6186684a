"""The `fw-train release` command: float16 weights with a model card, ready to publish."""
