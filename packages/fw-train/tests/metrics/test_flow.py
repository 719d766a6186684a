"""Return error of optical flow: small for a sliding texture, large for one that changes."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from fw_train.metrics.flow import flow_error


def textured(rng: np.random.Generator) -> np.ndarray:
    smooth = gaussian_filter(rng.normal(size=(64, 120, 3)), (2, 2, 0))
    return (127 + 100 * smooth / np.abs(smooth).max()).astype(np.uint8)


def test_a_sliding_texture_returns_and_a_melting_one_does_not():
    rng = np.random.default_rng(0)
    wide = textured(rng)
    sliding = np.stack([wide[:, 2 * n : 2 * n + 96] for n in range(5)])
    melting = np.stack([textured(rng)[:, :96] for _ in range(5)])
    assert flow_error(sliding) < 0.002
    assert flow_error(melting) > 5 * flow_error(sliding)
    assert flow_error(np.repeat(sliding[:1], 3, axis=0)) < 1e-6
    with pytest.raises(ValueError, match="two"):
        flow_error(sliding[:1])
