"""Validation of untrusted input: images, URLs and camera paths."""
