"""Pairs of frames to point maps to one scene: a DUSt3R-shaped network and a global alignment."""

LICENSE = "CC BY-NC-SA 4.0 (no commercial use; what is made with it must be shared alike), plus its data sets' terms"
"""License of the released weights. The code that runs them is part of this project; the weights are not."""
