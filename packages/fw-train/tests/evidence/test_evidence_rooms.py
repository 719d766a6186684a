"""Evidence on rooms without files: held-out seeds, and an easy known case in which every measure is at its ideal."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fw_model.autoencoders.block_dct import BlockDCT
from fw_model.config import preset
from fw_model.encoders.hashing import HashTextEncoder
from fw_model.model.model import FantasyWorld, WorldOutput
from fw_model.pipeline.pipeline import WorldPipeline
from fw_toy.rooms.clip import HELD_OUT_MOVES, HELD_OUT_PATHS, HELD_OUT_WORLDS, plan_room
from fw_train.config.schema import ConfigError
from fw_train.evaluate.options import EvidenceOptions
from fw_train.evidence.clips import Clips, choose
from fw_train.evidence.depth_maps import average_scene_error, coarse_log_depth, correlation
from fw_train.evidence.evidence import evidence
from fw_train.evidence.levels import passes, true_world
from fw_train.evidence.lines import LINES, read_lines
from fw_train.evidence.scores import reference_scores, video_scores, world_scores
from fw_train.metrics.truth import TruthClip

SHAPE = (17, 96, 144)


def rooms(count: int, shape: tuple[int, int, int] = SHAPE, data: str = "rooms") -> Clips:
    return choose(Path(data), shape, count=count, takes=1, min_confidence=0.3)


@pytest.fixture(scope="module")
def truths() -> list[TruthClip]:
    clips = rooms(3)
    return [clips.truth(record.id) for record in clips.records]


def test_rooms_are_of_held_out_seeds():
    clips = rooms(200)
    assert clips.records[0].id == f"room-{HELD_OUT_WORLDS}"
    assert len(clips.records) == len(set(clips.groups.values())) == 200
    new_paths = rooms(5, data=f"rooms:{HELD_OUT_PATHS}-{HELD_OUT_PATHS + 2}")
    assert len(new_paths.records) == 3
    assert all(plan_room(HELD_OUT_PATHS + n).move in HELD_OUT_MOVES for n in range(3))
    for data in ("rooms:5-9", "rooms:new", f"rooms:{HELD_OUT_WORLDS + 1}-{HELD_OUT_WORLDS}"):
        with pytest.raises(ConfigError, match="rooms"):
            rooms(5, data=data)
    with pytest.raises(ConfigError, match="--takes 2"):
        choose(Path("rooms"), SHAPE, count=2, takes=2, min_confidence=0.3)


def test_the_scene_unit_is_that_of_the_training():
    clips = rooms(1)
    first, every = (replace(clips, first_frame_only=only).truth(clips.records[0].id) for only in (True, False))
    depth = first.depth.astype(np.float64) * first.scene_scale
    rays = first.trajectory.K  # mean distance of all points from the first camera, in meters
    columns, rows = np.meshgrid(np.arange(144) + 0.5, np.arange(96) + 0.5)
    pixels = np.stack([columns, rows, np.ones_like(rows)], axis=-1)
    points = [pixels @ np.linalg.inv(K).T * z[..., None] for K, z in zip(rays, depth, strict=True)]
    poses = first.trajectory.scaled(first.scene_scale).pose_c2w
    away = [np.linalg.norm(p @ pose[:3, :3].T + pose[:3, 3], axis=-1) for p, pose in zip(points, poses, strict=True)]
    assert first.scene_scale == pytest.approx(np.mean(away[0]), rel=1e-4)
    assert every.scene_scale == pytest.approx(np.mean(away), rel=1e-4)
    assert first.scene_scale != every.scene_scale


def test_true_frames_and_true_geometry_reach_the_ideal_of_every_measure(truths: list[TruthClip]):
    for truth in truths:
        scores = video_scores(truth.video, truth) | world_scores(true_world(truth), truth)
        ideal = {"video/psnr": 100, "video/psnr@13-16": 100, "video/ssim": 1, "own/depth/delta1": 1}
        assert {name: scores[name] for name in ideal} == pytest.approx(ideal)
        zero = ("own/depth/abs_rel", "own/pose/ate", "own/points/chamfer", "own/follow/rotation")
        for name in zero:
            assert scores[name] == pytest.approx(0, abs=1e-4), name
        reference = reference_scores(truth, BlockDCT())
        for name in ("psnr", "progress", "ssim@13-16"):
            assert scores[f"own_warp/{name}"] == reference[f"warp/{name}"], name
        assert reference["still/progress"] in (0, None)
        if truth.trajectory.path_length() > 0.05:
            assert scores["own/follow/direction"] == pytest.approx(0, abs=1e-3)
            assert (scores["own/consistency/photometric_ratio"] or 1) < 0.6
    found = [video_scores(truth.video, truth) for truth in truths]
    for name, least, most in (("progress", 0.9, 1.0), ("rotation", 0.0, 2.0), ("direction", 0.0, 15.0)):
        values = [value for one in found if (value := one[f"video/{name}"]) is not None]
        assert values, name
        assert least <= float(np.median(values)) <= most, name


def test_correlation_sees_what_differs_between_worlds(truths: list[TruthClip]):
    true = [coarse_log_depth(truth.depth, truth.depth) for truth in truths]
    groups = [truth.record.id for truth in truths]
    perfect = correlation(true, true, groups)
    assert perfect is not None
    assert perfect.mean == pytest.approx(1)
    assert perfect.mean_interval == pytest.approx((1, 1))
    average = np.exp(np.mean([maps.astype(np.float64) for maps in true], axis=0))
    assert correlation([np.log(average)] * len(true), true, groups) is None  # one scene for all
    swapped = correlation(true[1:] + true[:1], true, groups)
    assert swapped is not None
    assert swapped.mean < 0.5
    scaled = [coarse_log_depth(3 * truth.depth, truth.depth) for truth in truths]
    np.testing.assert_allclose(scaled[0].astype(float), true[0].astype(float), atol=2e-3)
    error = average_scene_error(true, groups)
    assert error is not None
    assert error.mean > 0.05
    assert correlation(true[:2], true[:2], groups[:2]) is None  # too few for an average


def test_a_network_that_knows_the_answer_has_no_denoising_error(
    truths: list[TruthClip], monkeypatch: pytest.MonkeyPatch
):
    truth, config = truths[0], preset("small_world")
    text = HashTextEncoder(text_len=config.video.text_len, text_dim=config.video.text_dim)
    pipeline = WorldPipeline(FantasyWorld(config, seed=0), BlockDCT(), text)
    clean = pipeline.autoencoder.encode(torch.from_numpy(truth.video).float().permute(3, 0, 1, 2)[None] / 127.5 - 1)
    error = 0.0

    def forward(_: FantasyWorld, noisy: Tensor, timestep: Tensor, **__: object) -> WorldOutput:
        return WorldOutput(velocity=(noisy - clean) * 1000 / timestep.clamp_min(1) + error, geometry=None)

    monkeypatch.setattr(FantasyWorld, "forward", forward)
    found = {one.sigma: one.latent_error for one in passes(pipeline, truth, geometry=False)}
    assert set(found) == {0.0, 0.5, 0.8, 0.9, 1.0}
    assert max(value for value in found.values() if value is not None) < 1e-10
    error = 0.1
    wrong = {one.sigma: one.latent_error for one in passes(pipeline, truth, geometry=False)}
    assert wrong[0.5] == pytest.approx(0.05**2, rel=1e-3)
    assert wrong[1.0] == pytest.approx(0.1**2, rel=1e-3)


def test_the_command_measures_rooms_without_files(checkpoint: Path, tmp_path: Path):
    options = EvidenceOptions(
        checkpoint=checkpoint, data=Path("rooms"), out=tmp_path, clips=3, steps=1, strip=3, few_steps_clips=0
    )
    page = evidence(options, lambda _: None)
    lines = read_lines(tmp_path / LINES)
    assert [line.clip for line in lines if line.model == "model"] == [f"room-{HELD_OUT_WORLDS + n}" for n in range(3)]
    assert "average scene for every clip" in page.read_text()
    more = replace(options, clips=4)
    evidence(more, lambda _: None)
    assert len(read_lines(tmp_path / LINES)) == 8


def test_worlds_are_fitted_with_gaussians(checkpoint: Path, tmp_path: Path):
    options = EvidenceOptions(
        checkpoint=checkpoint,
        data=Path("rooms"),
        out=tmp_path / "out",
        clips=1,
        steps=1,
        strip=0,
        few_steps_clips=0,
        splats=1,
        splat_steps=2,
    )
    with pytest.raises(ConfigError, match=r"--splats.*6"):
        evidence(options, lambda _: None)
    longer = tmp_path / "longer"
    shutil.copytree(checkpoint, longer)
    settings = json.loads((longer / "pipeline.json").read_text())
    settings["sampling"]["num_frames"] = 9
    (longer / "pipeline.json").write_text(json.dumps(settings))
    page = evidence(replace(options, checkpoint=longer), lambda _: None)
    assert "generated world, from its own geometry" in page.read_text()
    assert (tmp_path / "out" / "splats" / f"room-{HELD_OUT_WORLDS}.ply").read_bytes().startswith(b"ply\n")
    scores = {line.model: line.scores for line in read_lines(tmp_path / "out" / LINES)}["splats"]
    assert (scores["truth/psnr"] or 0) > (scores["own/psnr"] or 0) > 0
