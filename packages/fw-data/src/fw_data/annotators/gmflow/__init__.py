"""Dense optical flow between two frames by a network: GMFlow."""
