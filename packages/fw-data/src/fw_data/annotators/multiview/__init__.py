"""Backends whose network reads all frames of a clip at once: images in, one scene out."""
