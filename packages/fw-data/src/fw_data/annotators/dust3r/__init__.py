"""Pairs of frames to point maps to one scene: a DUSt3R-shaped network and a global alignment of our own."""
