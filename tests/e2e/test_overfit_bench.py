"""The overfit bench compares worlds with the room in the same unit."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks import overfit

from fw_geometry import Trajectory, unproject
from fw_model.pipeline.result import World
from fw_toy.rooms.clip import render_room


def test_a_perfect_world_has_no_error_and_one_of_another_size_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overfit, "reconstruct", lambda video, _autoencoder: video)
    clip = render_room(0, frames=overfit.FRAMES, height=overfit.HEIGHT, width=overfit.WIDTH)
    K, pose = np.repeat(clip.plan.K[None], len(clip.video), axis=0), clip.plan.pose_c2w
    path = Trajectory(pose_c2w=pose, K=K, width=overfit.WIDTH, height=overfit.HEIGHT)
    depth = torch.from_numpy(clip.depth_m)
    points = unproject(depth, torch.from_numpy(K).float(), torch.from_numpy(pose).float()).numpy()
    pipeline: Any = SimpleNamespace(autoencoder=None)

    def errors(size: float) -> list[float]:
        world = World(
            video=clip.video,
            depth=size * clip.depth_m,
            depth_confidence=np.full_like(clip.depth_m, 2.0),
            points=size * points,
            points_confidence=np.full_like(clip.depth_m, 2.0),
            trajectory=path.scaled(size),
            requested=path,
        )
        return [row.value for row in overfit.rows(clip, world, pipeline)[1:]]

    assert errors(1.0) == pytest.approx([0, 0, 0, 0], abs=1e-5)
    depth_error, points_error, rotation, translation = errors(1.1)
    assert (depth_error, points_error, rotation) == pytest.approx((0.1, 0.1, 0), abs=1e-5)
    assert translation > 0.01
