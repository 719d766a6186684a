"""`fw-train evidence`: each measure on input whose answer is known, and the command from end to end on a mini model."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro
from PIL import Image

from fw_data.dataset.reader import ClipDataset
from fw_geometry import Trajectory, camera_error
from fw_model.autoencoders.block_dct import BlockDCT
from fw_model.checkpoints.checkpoint import load_world, save_world
from fw_model.pipeline.pipeline import WorldPipeline
from fw_train.config.schema import ConfigError
from fw_train.evaluate.options import EvidenceOptions
from fw_train.evidence.clips import world_of
from fw_train.evidence.evidence import GENERATED, evidence
from fw_train.evidence.levels import passes, true_world
from fw_train.evidence.lines import LINES, read_lines
from fw_train.evidence.scores import frame_ranges, reconstruct, reference_scores, video_scores
from fw_train.evidence.strip import STEPS, STRIP
from fw_train.evidence.summaries import Result, Table
from fw_train.evidence.tables import write_tables
from fw_train.metrics.measure import measure_geometry
from fw_train.metrics.recovery import recover_path
from fw_train.metrics.truth import TruthClip, load_truth
from fw_train.metrics.warp import fill_holes, splat, warp_first_frame

K = np.array([[40.0, 0, 24], [0, 40, 16], [0, 0, 1]])


@pytest.fixture(autouse=True, scope="module")
def few_points() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fw_train.metrics.measure._MOST_POINTS", 300)
        yield


@pytest.fixture
def truth(dataset: Path) -> TruthClip:
    return load_truth(ClipDataset(dataset), "clip-00", frames=5, height=32, width=48, min_confidence=0.3)


def slide(frames: int, step: float) -> Trajectory:
    """Cameras that move right by `step` a frame."""
    pose = np.tile(np.eye(4), (frames, 1, 1))
    pose[:, 0, 3] = step * np.arange(frames)
    return Trajectory(pose_c2w=pose, K=np.tile(K, (frames, 1, 1)), width=48, height=32)


def wall(path: Trajectory, depth: float) -> np.ndarray:
    """A smooth image on a plane at `depth`, seen from every camera of a sliding path."""
    column, row = np.meshgrid(np.arange(48) + 0.5, np.arange(32) + 0.5)
    frames = []
    for pose in path.pose_c2w:
        x, y = column * depth / 40 + pose[0, 3], row * depth / 40
        waves = [np.sin(a * x + b * y + c) for a, b, c in ((5, 2, 0), (-3, 7, 1), (9, 5, 2), (11, -8, 3), (2, 13, 4))]
        gray = 0.5 + 0.1 * sum(waves)
        frames.append(np.stack([gray, gray**2, 1 - gray], axis=-1))
    return (255 * np.stack(frames)).round().astype(np.uint8)


def test_the_warp_is_exact_on_a_plane_that_moves_by_whole_pixels_up_to_what_comes_into_view():
    path = slide(4, 0.1)  # at depth 2 and focal length 40: two pixels a frame
    video = wall(path, 2.0)
    warped = warp_first_frame(video[0], np.full((32, 48), 2.0), path)
    for frame in range(4):
        kept = 48 - 2 * frame
        np.testing.assert_array_equal(warped[frame, :, :kept], video[frame, :, :kept])
        np.testing.assert_array_equal(warped[frame, :, kept:], np.repeat(video[0, :, -1:], 2 * frame, axis=1))


def test_pixels_without_depth_stand_still_and_near_points_hide_far_ones():
    path, first = slide(3, 0.1), wall(slide(1, 0.1), 2.0)[0]
    depth = np.full((32, 48), 2.0)
    depth[:16] = 0
    np.testing.assert_array_equal(warp_first_frame(first, depth, path)[2, :16], first[:16])
    points = np.array([[0, 0, 2.0], [0, 0, 1.0], [0, 0, -1.0]])
    color = np.array([[1, 1, 1], [2, 2, 2], [3, 3, 3]], np.uint8)
    image, filled = splat(points, color, K, np.eye(4), 32, 48)
    assert filled.sum() == 1
    assert (image[16, 24] == 2).all()
    assert (fill_holes(image, filled) == 2).all()


def test_the_camera_of_a_video_is_found_and_another_motion_is_not_taken_for_it():
    path = slide(5, 0.06)
    video, depth = wall(path, 2.0), np.full((32, 48), 2.0)
    found = recover_path(video, depth, path.K)
    assert found.found.all()
    right = camera_error(found.pose_c2w, path.pose_c2w)
    assert right.rotation_deg < 1.5
    assert right.translation_deg < 15
    back = slide(5, -0.06)
    assert camera_error(recover_path(wall(back, 2.0), depth, path.K).pose_c2w, path.pose_c2w).translation_deg > 150


def test_without_known_depth_no_camera_is_found_and_the_path_stands_still():
    path = slide(3, 0.06)
    depth = np.zeros((32, 48))
    depth[10, :20] = 2.0
    found = recover_path(wall(path, 2.0), depth, path.K)
    assert list(found.found) == [True, False, False]
    np.testing.assert_array_equal(found.pose_c2w, np.tile(np.eye(4), (3, 1, 1)))


def test_references_rank_as_they_must(truth: TruthClip):
    scores = {name: value for name, value in reference_scores(truth, BlockDCT()).items() if value is not None}
    assert scores["autoencoder/psnr_all"] == scores["block_dct/psnr_all"] != scores["autoencoder/psnr"]
    assert scores["warp/psnr"] > scores["still/psnr"]
    assert scores["truth/photometric"] < scores["still/photometric"]
    own = video_scores(truth.video, truth)
    assert own["video/psnr"] == 100
    assert own["video/ssim@4-4"] == pytest.approx(1)
    assert own["video/rotation"] == scores["truth/rotation"]
    black = video_scores(np.zeros_like(truth.video), truth)
    assert black["video/cameras_found"] == 0 or black["video/direction"] != own["video/direction"]


def test_a_latent_that_the_transform_keeps_comes_back_whole():
    flat = np.full((5, 16, 16, 3), 100, np.uint8)
    np.testing.assert_array_equal(reconstruct(flat, BlockDCT()), flat)


def test_frames_are_grouped_by_distance():
    assert frame_ranges(17) == [(1, 4), (5, 8), (9, 12), (13, 16)]
    assert frame_ranges(5) == [(1, 1), (2, 2), (3, 3), (4, 4)]
    assert frame_ranges(3) == [(1, 1), (2, 2)]


def test_true_geometry_has_no_error(truth: TruthClip):
    scores = measure_geometry(true_world(truth), truth).scores
    assert scores["depth/abs_rel"] == pytest.approx(0, abs=1e-6)
    assert scores["depth/delta1"] == 1
    assert scores["pose/ate"] == pytest.approx(0, abs=1e-6)
    assert scores["points/chamfer"] == pytest.approx(0, abs=1e-5)


def test_passes_at_levels_have_fixed_noise(checkpoint: Path, truth: TruthClip):
    pipeline = WorldPipeline.from_pretrained(checkpoint)
    found = {one.sigma: one for one in passes(pipeline, truth, levels=(0.0, 0.5, 1.0))}
    again = {one.sigma: one for one in passes(pipeline, truth, levels=(0.5,))}
    assert found[0.0].latent_error is None
    assert found[0.5].latent_error == again[0.5].latent_error
    worlds = {sigma: one.world for sigma, one in found.items() if one.world is not None}
    assert len(worlds) == 3
    assert not np.array_equal(worlds[0.0].depth, worlds[0.5].depth)
    assert worlds[0.0].video is truth.video
    (alone,) = passes(pipeline, truth, levels=(0.5,), geometry=False, cross_branch=False)
    assert alone.world is None
    assert alone.latent_error == pytest.approx(found[0.5].latent_error)  # the gates of new weights are zero


def test_seeds_are_averaged_and_the_trainings_are_told_apart(tmp_path: Path):
    def one(model: str, run: int, clip: str, value: float) -> Result:
        return Result(model=model, run=run, clip=clip, group=clip, scores={"video/psnr": float(value)})

    results = [one("full", 0, "a", 10), one("full", 0, "b", 12), one("full", 1, "a", 14), one("full", 1, "b", 16)]
    results += [one("apart", 0, "a", 9), one("apart", 0, "b", 11)]
    table = Table(results)
    assert table.by_clip("full", "video/psnr") == {"a": 12, "b": 14}
    assert table.of_runs("full", "video/psnr") == [11, 15]
    difference = table.difference("apart", "full", "video/psnr")
    assert difference is not None
    assert difference.mean == -3
    assert difference.mean_interval == (-3, -3)
    results += [one("apart", 1, "a", 9), one("apart", 1, "b", 11)]
    both = Table(results).difference("apart", "full", "video/psnr")
    assert both is not None
    assert both.mean == -3
    assert both.mean_interval == (-5, -1)  # trainings differ by 1 and by 5
    page = write_tables(tmp_path, results, {"steps": 1}, arms=["full", "apart"], frames=5, maps={}).read_text()
    assert "| full | 2 | 13.0 [12, 14]; 11 to 15 |" in page
    assert "difference from full" in page
    assert "Autoencoder" not in page


def test_the_prior_of_a_frozen_video_branch_is_the_checkpoint_without_its_cameras(
    checkpoint: Path, dataset: Path, tmp_path: Path
):
    """Adapters that move the video are live; the `base` row is that of weights whose adapters are zero.

    All are generated by the noise schedule of the first weights, whatever schedule the base would take by itself.
    """
    world = load_world(checkpoint)
    plain, live = tmp_path / "plain", tmp_path / "live"
    for folder, value in ((plain, 0.0), (live, 3.0)):
        shutil.copytree(checkpoint, folder)
        with torch.no_grad():
            world.video.head.head.weight.normal_(generator=torch.Generator().manual_seed(0))
            for block in world.video_blocks():
                if block.camera_adapter is not None:
                    block.camera_adapter.get_parameter("to_shift.2.bias").fill_(value)
                    block.camera_adapter.get_parameter("to_shift.2.weight").zero_()
        save_world(world, folder)
    pipeline = json.loads((plain / "pipeline.json").read_text())
    pipeline["sampling"]["shift"] += 4
    (plain / "pipeline.json").write_text(json.dumps(pipeline))
    found = {}
    for name, base in (("live", live), ("plain", plain)):
        options = EvidenceOptions(
            checkpoint=live,
            base=base,
            data=dataset,
            out=tmp_path / name / "evidence",
            clips=1,
            steps=2,
            strip=0,
            few_steps_clips=0,
        )
        evidence(options, lambda _line: None)
        found[name] = {line.model: line.scores for line in read_lines(options.out / LINES)}
    assert found["live"]["base"] == found["plain"]["base"]
    assert found["live"]["model"]["video/psnr"] != found["live"]["base"]["video/psnr"]


def test_the_command_goes_on_where_it_stopped(checkpoint: Path, dataset: Path, tmp_path: Path):
    out = tmp_path / "evidence"
    options = EvidenceOptions(
        checkpoint=checkpoint,
        base=checkpoint,
        arm=(f"same={checkpoint}",),
        data=dataset,
        out=out,
        clips=2,
        steps=1,
        strip=1,
        few_steps=(1, 2),
        few_steps_clips=1,
    )
    printed: list[str] = []
    page = evidence(options, printed.append)
    lines = read_lines(out / LINES)
    assert [line.model for line in lines] == ["reference"] * 2 + ["model"] * 3 + ["base"] * 2 + ["same"] * 2
    assert [line.steps for line in lines[:6]] == [0, 0, 1, 1, 2, 1]
    text = page.read_text()
    titles = ["Autoencoder", "PSNR, dB", "SSIM", "Camera following", "Denoising error", "Geometry of one pass"]
    titles += ["3D consistency", "Number of denoising steps", "Ablation"]
    assert all(title in text for title in titles)
    with Image.open(out / STRIP) as strip, Image.open(out / STEPS) as steps:
        assert strip.size == (8 * 48 + 7 * 2, 32)
        assert steps.size == (4 * 48 + 3 * 2, 32)
    stored = json.loads((out / "evidence.json").read_text())["summary"]
    assert stored["same"]["video/psnr"]["mean"] == stored["model"]["video/psnr"]["mean"]
    assert stored["model"]["video/psnr"]["count"] == 2

    whole = (out / LINES).read_bytes()
    (out / LINES).write_bytes(whole[:-40])  # killed while it wrote the last line
    printed.clear()
    assert evidence(options, printed.append).read_text() == text
    assert (out / LINES).read_bytes() == whole
    assert sum("measured" in line for line in printed) == 1
    (out / LINES).unlink()  # the worlds are kept: nothing is generated again
    before = {path: path.stat().st_mtime_ns for path in (out / GENERATED).rglob("*.npz")}
    assert len(before) == 7
    assert evidence(options, printed.append).read_text() == text
    assert {path: path.stat().st_mtime_ns for path in (out / GENERATED).rglob("*.npz")} == before
    other = EvidenceOptions(checkpoint=checkpoint, data=dataset, out=out, clips=2, steps=1, guidance=2.0)
    with pytest.raises(ConfigError, match=r"guidance.*1.*2"):
        evidence(other, printed.append)


def test_bad_options_are_refused(checkpoint: Path, dataset: Path, tmp_path: Path):
    def refused(**changes: object) -> str:
        words = {"checkpoint": checkpoint, "data": dataset, "out": tmp_path / "out", **changes}
        with pytest.raises(ConfigError) as error:
            evidence(EvidenceOptions(**words), print)  # pyright: ignore[reportArgumentType]
        return str(error.value)

    assert "--arm" in refused(checkpoint=None)
    assert "not NAME=EXPORT" in refused(arm=("model=x",))
    assert "does not exist" in refused(arm=("a=nowhere",))
    assert "--clips is 0" in refused(clips=0)
    assert "--seeds" in refused(seeds=(1, 1))
    assert not (tmp_path / "out").exists()


def test_takes_of_one_world_are_one_group(dataset: Path):
    record = ClipDataset(dataset).records[0]
    sources = [record.model_copy(update={"source": f"toy-{n:06d}.mp4"}) for n in range(4)]
    assert [world_of(one, 2) for one in sources] == ["world-000000"] * 2 + ["world-000001"] * 2
    assert world_of(record, 1) == record.source_sha256
    with pytest.raises(ConfigError, match="number"):
        world_of(record.model_copy(update={"source": "room.mp4"}), 2)


def test_every_arm_of_the_command_line_counts():
    words = ["--data", "d", "--out", "o", "--arm", "both=a", "--arm", "both=b", "--arm", "none=c"]
    assert tyro.cli(EvidenceOptions, args=words).arm == ("both=a", "both=b", "none=c")
