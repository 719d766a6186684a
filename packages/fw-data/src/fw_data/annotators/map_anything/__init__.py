"""MapAnything (Keetha et al., 2025): metric cameras and depth of all frames from one network."""
