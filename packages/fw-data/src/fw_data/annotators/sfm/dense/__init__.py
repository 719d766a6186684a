"""Dense stereo: a depth for every pixel of every frame, by plane sweeps that neighboring frames confirm."""
