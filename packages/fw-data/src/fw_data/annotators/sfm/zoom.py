"""A focal length that changes within the shot.

Every frame is given a focal length of its own. With right cameras these stay where the common one was, within about a
percent; with a zoom they follow it, although points and poses take up much of it.
"""

import numpy as np

from fw_data.annotators.sfm.bundle import focal_lengths
from fw_data.annotators.sfm.calibration import LOSS_PX
from fw_data.annotators.sfm.scene import SparseScene


def fit_zoom(scene: SparseScene, threads: int) -> float:
    """Trend of the logarithm of the focal length from the first frame to the last; for a zoom, less than its own."""
    focal = np.log(focal_lengths(scene, loss_px=2 * LOSS_PX, threads=threads))
    time = np.flatnonzero(scene.posed) / max(len(scene.posed) - 1, 1)
    return float(np.polyfit(time, focal, 1)[0]) if len(focal) > 2 else 0.0
