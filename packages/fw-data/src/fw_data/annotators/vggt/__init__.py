"""VGGT (Wang et al., CVPR 2025): cameras and depth of all frames from one network."""
