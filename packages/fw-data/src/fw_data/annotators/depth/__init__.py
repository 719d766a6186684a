"""Depth of single frames from a network, and its alignment to geometry that is right up to one scale."""
