"""A part of the corruption table (`python -m benchmarks.measures`), and reprojection that noise cannot please."""

from dataclasses import replace

import numpy as np
import pytest
from benchmarks.measures import corruptions, faults, noisy, rooms, scores_of

from fw_train.evidence.levels import true_world
from fw_train.metrics.consistency import LEAST_VISIBLE, reprojection
from fw_train.metrics.measures import MEASURES
from fw_train.metrics.truth import TruthClip

TABLE = {one.name: one for one in corruptions()}


@pytest.fixture(scope="module")
def truth() -> TruthClip:
    return rooms(1)[0]


@pytest.fixture(scope="module")
def perfect(truth: TruthClip) -> dict[str, float]:
    return scores_of(true_world(truth), truth, st_lpips=None, pixels=False)


def test_the_table_has_19_corruptions_and_covers_every_measure():
    assert len(TABLE) == 19
    worsened = {name for one in TABLE.values() for name in one.worse}
    optional = {"video/lpips", "follow_sfm/rotation", "follow_sfm/direction"}
    ranked = {name for name, measure in MEASURES.items() if measure.better != "neither"}
    parts = {"consistency/depth", "consistency/photometric", "consistency/visible"}  # of the ratios
    assert ranked - optional - parts <= worsened


@pytest.mark.parametrize(
    "name",
    ["20 % darker", "depth noise, 2 %", "depth noise, 10 %", "half the path", "twice the path", "reversed travel"],
)
def test_a_corruption_moves_the_measures_that_it_must(truth: TruthClip, perfect: dict[str, float], name: str):
    damaged = scores_of(TABLE[name].apply(true_world(truth)), truth, st_lpips=None, pixels=False)
    assert faults(TABLE[name], perfect, damaged) == []


def test_a_fault_is_reported(truth: TruthClip, perfect: dict[str, float]):
    assert len(faults(TABLE["20 % darker"], perfect, perfect)) == 2
    assert "unchanged" in faults(TABLE["20 % darker"], perfect, {**perfect, "depth/delta1": 0.5})[2]


def test_noisier_depth_reprojects_worse_and_coverage_stays(truth: TruthClip):
    world = true_world(truth)
    found = [
        reprojection(replace(world, depth=noisy(share, world.depth).astype(np.float32)), 4)
        for share in (0.0, 0.02, 0.05, 0.1, 0.2, 0.4)
    ]
    ratios = [one.photometric_ratio or 0 for one in found]
    assert ratios == sorted(ratios)
    assert len(set(ratios)) == len(ratios)
    depth = [one.depth for one in found]
    assert depth == sorted(depth)
    assert found[2].visible > 0.5


def test_low_coverage_is_a_failure(truth: TruthClip):
    world = true_world(truth)
    poses = world.trajectory.pose_c2w.copy()
    poses[:, 0, 3] += 5.0 * np.arange(len(poses))
    found = reprojection(replace(world, trajectory=replace(world.trajectory, pose_c2w=poses)), 4)
    assert found.visible < LEAST_VISIBLE
    assert found.failed
    assert (found.photometric_ratio or 0) >= 1
    assert found.depth >= 1


def test_magnitude_of_travel_counts(truth: TruthClip, perfect: dict[str, float]):
    assert perfect["follow/length"] == pytest.approx(1)
    assert perfect["follow/position"] == pytest.approx(0, abs=1e-9)
    world = true_world(truth)
    for name, length in (("half the path", 0.5), ("twice the path", 2.0), ("standing camera", 0.0)):
        scores = scores_of(TABLE[name].apply(world), truth, st_lpips=None, pixels=False)
        assert scores["follow/length"] == pytest.approx(length), name
        assert scores["follow/position"] > 0.05, name
        if length:
            assert scores["follow/direction"] == pytest.approx(0, abs=1e-3)
    reversed_path = scores_of(TABLE["reversed travel"].apply(world), truth, st_lpips=None, pixels=False)
    still = perfect["pose/ate_still"]
    assert reversed_path["pose/ate_directed"] == pytest.approx(2 * still, rel=1e-6)
    standing = scores_of(TABLE["standing camera"].apply(world), truth, st_lpips=None, pixels=False)
    assert standing["pose/ate_directed"] == pytest.approx(still, rel=1e-6)
    assert standing["pose/ate"] == pytest.approx(still, rel=1e-6)
