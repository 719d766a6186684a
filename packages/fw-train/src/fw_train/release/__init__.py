"""The `fw-train ship` command: float16 weights with a model card, ready to publish."""
