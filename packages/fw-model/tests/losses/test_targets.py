"""Scene normalization against numpy, the golden inference scale, and invariances that a unit must have."""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from fw_geometry import decode_pose, se3_exp, unproject
from fw_model.losses.targets import geometry_targets, normalize_scene, trajectory_scale

GOLDEN = load_file(Path(__file__).parents[1] / "golden" / "geometry_utils.safetensors")
B, F, H, W = 2, 3, 6, 8


def _clip(seed=0):
    g = torch.Generator().manual_seed(seed)
    depth = 1 + 3 * torch.rand(B, F, H, W, generator=g, dtype=torch.float64)
    pose = se3_exp(0.3 * torch.randn(B, F, 6, generator=g, dtype=torch.float64))
    K = torch.tensor([[9.0, 0, 4], [0, 9.5, 3], [0, 0, 1]], dtype=torch.float64).expand(B, F, 3, 3)
    mask = torch.rand(B, F, H, W, generator=g) > 0.3
    return depth, K, pose, mask


def test_normalized_scene_against_numpy():
    depth, K, pose, mask = _clip()
    points = unproject(depth, K, pose)
    scene = normalize_scene(depth, points, pose, mask)
    for b in range(B):
        inverse = np.linalg.inv(pose[b, 0].numpy())
        local = points[b].numpy() @ inverse[:3, :3].T + inverse[:3, 3]
        scale = np.linalg.norm(local, axis=-1)[mask[b].numpy()].mean()
        np.testing.assert_allclose(float(scene.scale[b]), scale, rtol=1e-12)
        np.testing.assert_allclose(scene.points[b].numpy(), local / scale, atol=1e-12)
        np.testing.assert_allclose(scene.depth[b].numpy(), depth[b].numpy() / scale, atol=1e-12)
        for f in range(F):
            relative = inverse @ pose[b, f].numpy()
            relative[:3, 3] /= scale
            np.testing.assert_allclose(scene.pose_c2w[b, f].numpy(), relative, atol=1e-12)


def test_first_frame_scale_ignores_later_frames():
    depth, K, pose, mask = _clip()
    points = unproject(depth, K, pose)
    scene = normalize_scene(depth, points, pose, mask, first_frame_only=True)
    expected = unproject(depth, K)[:, 0].norm(dim=-1)
    for b in range(B):
        torch.testing.assert_close(scene.scale[b], expected[b][mask[b, 0]].mean())


def test_normalization_forgets_the_unit_and_the_world_frame():
    depth, K, pose, mask = _clip(1)
    moved = se3_exp(torch.tensor([0.4, -1.0, 2.0, 0.3, 0.2, -0.5], dtype=torch.float64)) @ pose
    moved[..., :3, 3] *= 7
    a = normalize_scene(depth, unproject(depth, K, pose), pose, mask)
    b = normalize_scene(7 * depth, unproject(7 * depth, K, moved), moved, mask)
    for name in ("depth", "points", "pose_c2w"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name))
    torch.testing.assert_close(7 * a.scale, b.scale)


def test_nothing_valid_leaves_the_unit_alone():
    depth, K, pose, mask = _clip()
    scene = normalize_scene(depth, unproject(depth, K, pose), pose, torch.zeros_like(mask))
    assert scene.scale.tolist() == [1.0, 1.0]
    assert scene.points.isfinite().all()


def test_targets_agree_with_each_other():
    depth, K, pose, mask = _clip(2)
    depth[0, 1, 2, 3] = torch.nan
    depth[1, 0, 0, 0] = 0
    targets, scene = geometry_targets(depth, K, pose, mask=mask)
    assert not targets.mask[0, 1, 2, 3]
    assert not targets.mask[1, 0, 0, 0]
    assert torch.equal(targets.mask, mask & depth.isfinite() & (depth > 0))
    # points are the depth seen through the encoded cameras
    pose_w2c, K_back = decode_pose(targets.pose_encoding, H, W)
    again = unproject(targets.depth, K_back, torch.linalg.inv(pose_w2c))
    torch.testing.assert_close(again[targets.mask], targets.points[targets.mask])
    torch.testing.assert_close(scene.pose_c2w[:, 0], torch.eye(4, dtype=torch.float64).expand(B, 4, 4))


def test_inference_scale_is_the_released_one():
    value = trajectory_scale(GOLDEN["scale.world_points"], GOLDEN["scale.mask"].bool())
    pose = GOLDEN["json.w2c"] @ torch.linalg.inv(GOLDEN["json.w2c"][:1])
    expected = float(GOLDEN["scale.value"])
    w2c = GOLDEN["json.w2c"][0]
    local = GOLDEN["scale.world_points"] @ w2c[:3, :3].T + w2c[:3, 3]
    value = trajectory_scale(local, GOLDEN["scale.mask"].bool())
    np.testing.assert_allclose(float(value), expected, rtol=1e-6)
    pose[:, :3, 3] /= value
    torch.testing.assert_close(pose[None], GOLDEN["scale.w2c_normalised"], rtol=0, atol=1e-6)
    assert float(trajectory_scale(local, torch.zeros_like(GOLDEN["scale.mask"]).bool())) == 1
