"""What the geometry tests share: golden tensors, random rigid motions and a path with everything uneven."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from scipy.spatial.transform import Rotation
from torch import Tensor

from fw_geometry import Trajectory

_GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def golden() -> Callable[[str], dict[str, Tensor]]:
    return lambda name: load_file(_GOLDEN / f"{name}.safetensors")


@pytest.fixture
def assert_golden() -> Callable[[Tensor, Tensor], None]:
    """The tolerance that the golden vectors' README asks for: max|a-b| <= 4e-6 * max|b|."""

    def check(actual: Tensor, expected: Tensor) -> None:
        assert actual.shape == expected.shape
        assert float((actual - expected).abs().max()) <= 4e-6 * float(expected.abs().max())

    return check


@pytest.fixture
def random_poses() -> Callable[..., np.ndarray]:
    def make(count: int, seed: int = 0) -> np.ndarray:
        rng = np.random.default_rng(seed)
        poses = np.tile(np.eye(4), (count, 1, 1))
        poses[:, :3, :3] = Rotation.random(count, rng=rng).as_matrix()
        poses[:, :3, 3] = rng.normal(size=(count, 3)) * 3
        return poses

    return make


@pytest.fixture
def path(random_poses: Callable[..., np.ndarray]) -> Trajectory:
    """Five frames: random poses, K that changes, fx != fy, principal point off the center."""
    rng = np.random.default_rng(7)
    K = np.tile(np.eye(3), (5, 1, 1))
    K[:, 0, 0], K[:, 1, 1] = rng.uniform(40, 60, 5), rng.uniform(50, 70, 5)
    K[:, 0, 2], K[:, 1, 2] = rng.uniform(25, 35, 5), rng.uniform(18, 22, 5)
    return Trajectory(pose_c2w=random_poses(5, seed=3), K=K, width=64, height=40)
