"""Depth Anything 3 (Lin et al., 2025): cameras and depth of all frames from one network."""
