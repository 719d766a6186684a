"""Long worlds with a tiny model: what each segment is made from, resuming, and the files of the result."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fw_geometry import Trajectory, formats, make_trajectory
from fw_geometry.continuation import divide, total_frames
from fw_model.autoencoders.block_dct import BlockDCT
from fw_model.config import tiny
from fw_model.encoders.hashing import HashTextEncoder
from fw_model.export import export_world, read_world
from fw_model.model.model import FantasyWorld
from fw_model.pipeline.pipeline import WorldPipeline
from fw_model.pipeline.result import Progress, World
from fw_model.pipeline.settings import GenerationSettings, Sampling
from fw_model.segments.alignment import scene_scale
from fw_model.segments.generate import generate_segments, model_digest, segment_digests

FRAMES, HEIGHT, WIDTH, SEGMENTS = 5, 32, 48, 3
ARRAYS = ("video", "depth", "depth_confidence", "points", "points_confidence")


@pytest.fixture(scope="module")
def pipe() -> WorldPipeline:
    sampling = Sampling(num_frames=FRAMES, height=HEIGHT, width=WIDTH, num_inference_steps=2, guidance_scale=1.0)
    encoder = HashTextEncoder(text_len=16, text_dim=64)
    return WorldPipeline(FantasyWorld(tiny(), seed=0), BlockDCT(), encoder, sampling=sampling)


def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8))


def path(segments: int = SEGMENTS) -> Trajectory:
    return make_trajectory("orbit", total_frames(FRAMES, segments), width=WIDTH, height=HEIGHT, angle_rad=0.6)


def long_world(pipe: WorldPipeline, folder: Path, **options: Any) -> tuple[World, list[Progress]]:
    options = {"segments": SEGMENTS, "seed": 7, **options}
    way = options.pop("path", None) or path(options["segments"])
    reports = list(generate_segments(pipe, image(), "a room", way, folder=folder, **options))
    assert reports[-1].world is not None
    return reports[-1].world, reports


def assert_same(one: World, other: World) -> None:
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    np.testing.assert_array_equal(one.trajectory.pose_c2w, other.trajectory.pose_c2w)
    assert one.seams == other.seams


@pytest.fixture(scope="module")
def made(pipe: WorldPipeline, tmp_path_factory: pytest.TempPathFactory) -> tuple[World, list[Progress], Path]:
    folder = tmp_path_factory.mktemp("whole")
    return *long_world(pipe, folder), folder


def test_each_segment_is_the_world_of_the_last_frame_the_next_part_and_the_scene_so_far(
    pipe: WorldPipeline, made: tuple[World, list[Progress], Path]
) -> None:
    world, _, folder = made
    parts = divide(path(), SEGMENTS)
    stored = [read_world(folder / "segments" / f"{number:03d}") for number in range(SEGMENTS)]
    first = pipe(image(), "a room", parts[0], seed=7)
    np.testing.assert_array_equal(stored[0].video, first.video)
    np.testing.assert_array_equal(world.video[:FRAMES], first.video)
    second = pipe(first.video[-1], "a room", parts[1], seed=8, scene_scale=scene_scale(first))
    np.testing.assert_array_equal(stored[1].video, second.video)
    np.testing.assert_array_equal(world.video[FRAMES : 2 * FRAMES - 1], second.video[1:])
    # lengths and cameras are those of the first segment's frame
    np.testing.assert_allclose(world.depth[FRAMES : 2 * FRAMES - 1], world.seams[0].scale * second.depth[1:], rtol=1e-6)
    shared = first.trajectory.pose_c2w[-1]
    expected = second.trajectory.scaled(world.seams[0].scale).pose_c2w[1:]
    np.testing.assert_allclose(world.trajectory.pose_c2w[FRAMES : 2 * FRAMES - 1], shared @ expected, atol=1e-9)


def test_the_world_has_all_frames_the_whole_request_and_its_seams(
    made: tuple[World, list[Progress], Path],
) -> None:
    world, reports, _ = made
    count = total_frames(FRAMES, SEGMENTS)
    assert world.video.shape == (count, HEIGHT, WIDTH, 3)
    np.testing.assert_allclose(world.requested.pose_c2w, path().pose_c2w, atol=1e-12)
    assert [seam.frame for seam in world.seams] == [4, 8]
    assert world.settings["segments"] == SEGMENTS
    stages = [(report.segment, report.stage) for report in reports if report.step]
    one = ["encode", "denoise", "denoise", "decode"]
    assert stages == [(k, stage) for k in range(SEGMENTS) for stage in one] + [(SEGMENTS - 1, "merge")]
    assert all(report.world is None for report in reports[:-1])
    assert {report.segments for report in reports} == {SEGMENTS}


def test_one_video_one_cloud_and_one_colmap_folder(made: tuple[World, list[Progress], Path], tmp_path: Path) -> None:
    world = made[0]
    export_world(world, tmp_path)
    assert_same(read_world(tmp_path), read_world_like(world))
    assert len(formats.read_colmap(tmp_path / "colmap" / "sparse" / "0").trajectory) == len(world.video)
    assert len(list((tmp_path / "images").iterdir())) == len(world.video)
    assert (tmp_path / "points.ply").stat().st_size > 15 * len(world.video) * HEIGHT * WIDTH // 8


def read_world_like(world: World) -> World:
    """Confidences are stored in float16; those of a merged world were read from there."""
    np.testing.assert_array_equal(world.depth_confidence, world.depth_confidence.astype(np.float16).astype(np.float32))
    return world


def interrupted(reports: Iterator[Progress], segment: int) -> None:
    """Take reports until a step of a segment is done, then drop the rest, as a killed program does."""
    for report in reports:
        if (report.segment, report.stage) == (segment, "denoise"):
            break
    reports.close()  # pyright: ignore[reportAttributeAccessIssue]


def test_an_interrupted_world_continues_with_the_unfinished_segment_and_is_the_same(
    pipe: WorldPipeline, made: tuple[World, list[Progress], Path], tmp_path: Path
) -> None:
    interrupted(
        generate_segments(pipe, image(), "a room", path(), segments=SEGMENTS, folder=tmp_path, seed=7), segment=1
    )
    (tmp_path / "segments" / ".001.partial").mkdir()  # of a program that was killed while it wrote
    world, reports = long_world(pipe, tmp_path)
    assert {report.segment for report in reports} == {1, 2}
    assert_same(world, made[0])
    again, reports = long_world(pipe, tmp_path)
    assert [report.stage for report in reports] == ["merge", "merge"]
    assert_same(again, made[0])


@pytest.mark.parametrize(
    ("change", "first"), [({"seed": 8}, 0), ({"num_inference_steps": 1}, 0), ({"path": "bend"}, 2), ({}, 3)]
)
def test_what_no_longer_fits_the_request_is_generated_again(
    pipe: WorldPipeline, made: tuple[World, list[Progress], Path], tmp_path: Path, change: dict[str, Any], first: int
) -> None:
    shutil.copytree(made[2], tmp_path / "copy")
    if change.get("path") == "bend":  # another way in the last segment
        poses = path().pose_c2w.copy()
        poses[-4:] = poses[-5] @ make_trajectory("pan", FRAMES, width=WIDTH, height=HEIGHT).pose_c2w[1:]
        change = {"path": Trajectory(pose_c2w=poses, K=path().K, width=WIDTH, height=HEIGHT)}
    _, reports = long_world(pipe, tmp_path / "copy", **change)
    generated = [report.segment for report in reports if report.stage == "denoise"]
    assert (min(generated) if generated else SEGMENTS) == first


def test_a_finished_world_is_extended_by_one_more_segment(
    pipe: WorldPipeline, tmp_path: Path, made: tuple[World, list[Progress], Path]
) -> None:
    """The folder of three segments also holds the first two of a path that is twice as long."""
    long = path(2 * SEGMENTS)
    start = long.slice(0, total_frames(FRAMES, 2))
    long_world(pipe, tmp_path, path=start, segments=2)
    _, reports = long_world(pipe, tmp_path, path=long.slice(0, total_frames(FRAMES, 3)), segments=3)
    assert {report.segment for report in reports} == {2}


def test_the_digest_sees_every_weight_and_the_autoencoder(pipe: WorldPipeline) -> None:
    known = model_digest(pipe)
    largest = max(pipe.world.parameters(), key=torch.numel)
    for tensor in (largest, next(pipe.world.geometry.parameters())):
        kept = tensor.detach().clone()
        with torch.no_grad():
            tensor.mul_(1.01)
        assert model_digest(pipe) != known
        with torch.no_grad():
            tensor.copy_(kept)
        assert model_digest(pipe) == known


def test_a_last_image_belongs_to_the_last_segment_alone() -> None:
    parts = divide(path(), SEGMENTS)
    settings = GenerationSettings()
    one = segment_digests("start", parts, settings, None)
    other = segment_digests("start", parts, settings, b"pixels")
    assert one[:-1] == other[:-1]
    assert one[-1] != other[-1]
    assert len({*one, *other}) == SEGMENTS + 1


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"segments": 0}, "segments is 0"),
        ({"segments": 5}, "13 cameras"),
        ({"segments": 4}, "num_frames is 4"),
        ({"num_frames": 9}, "13 poses"),
        ({"last_image": image()}, "last_image"),
        ({"num_inference_steps": 0}, "num_inference_steps"),
    ],
)
def test_a_wrong_request_is_refused_before_any_work(
    pipe: WorldPipeline, tmp_path: Path, options: dict[str, Any], error: str
) -> None:
    with pytest.raises(ValueError, match=error):
        generate_segments(pipe, image(), "", path(), folder=tmp_path, **{"segments": SEGMENTS, **options})
