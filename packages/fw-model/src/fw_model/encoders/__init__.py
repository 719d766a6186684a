"""Text encoders and the CLIP image encoder."""
