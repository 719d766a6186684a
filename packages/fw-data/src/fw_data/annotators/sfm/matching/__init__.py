"""Keyframes, local features, and verified matches between frames."""
