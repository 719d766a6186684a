"""What moves and what is sky, from images to training batches: a plane, a thing before it and a sky above."""

import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from fw_data import ClipDataset
from fw_data.annotators.base import ClipGeometry
from fw_data.dataset.buckets import Bucket, BucketTable
from fw_data.dataset.clip import MOVING, SKY, pack_clip
from fw_data.dataset.loader import ClipLoader
from fw_data.dataset.manifest import MANIFEST_NAME
from fw_data.dataset.transforms import fit_mask
from fw_data.inspect.contact_sheet import contact_sheet
from fw_data.inspect.stats import dataset_stats
from fw_data.quality.dynamics import overlay_pixels, pixel_labels
from fw_data.quality.filters import FilterConfig
from fw_data.quality.flow import flow_between
from fw_data.quality.image_scores import overlay_mask

FRAMES, HEIGHT, WIDTH, SKY_ROWS = 13, 96, 128, 28
SIDE = 32
"""Of the square that moves 4 pixels a frame."""


def _square(frame: int) -> tuple[slice, slice]:
    return slice(50, 50 + SIDE), slice(10 + 4 * frame, 10 + 4 * frame + SIDE)


@pytest.fixture
def world(scene) -> dict[str, np.ndarray]:
    """A moving image of a plane, blue sky without depth above it, and a textured square that slides before it."""
    content = scene(FRAMES, HEIGHT, WIDTH)
    patch = cv2.resize(np.random.default_rng(1).integers(0, 256, (9, 9, 3), dtype=np.uint8), (SIDE, SIDE))
    for index, frame in enumerate(content["video"]):
        frame[:SKY_ROWS] = (120, 170, 235)
        frame[_square(index)] = patch
    content["depth_m"][:, :SKY_ROWS] = 0
    return content


def _geometry(world: dict[str, np.ndarray], **changes: np.ndarray) -> ClipGeometry:
    depth_m = changes.get("depth_m", world["depth_m"])
    return ClipGeometry(
        depth_m=depth_m,
        confidence=changes.get("confidence", (depth_m > 0).astype(np.float32)),
        K=world["K"],
        pose_c2w=world["pose_c2w"],
        pose_confidence=np.ones(len(depth_m), np.float32),
    )


@pytest.fixture
def dataset(world, make_video, run_annotate, tmp_path) -> Path:
    make_video(tmp_path / "raw" / "a.mp4", world["video"])
    (tmp_path / "truth").mkdir()
    np.savez(tmp_path / "truth" / "a.npz", depth_m=world["depth_m"], K=world["K"], pose_c2w=world["pose_c2w"])
    run_annotate(tmp_path / "raw", tmp_path / "out")
    return tmp_path / "out"


def _check(moving: np.ndarray, sky: np.ndarray) -> None:
    """In every frame most of the square moves, hardly anything else does, and the sky is where it was painted."""
    for frame in range(FRAMES):
        inside = np.zeros((HEIGHT, WIDTH), bool)
        inside[_square(frame)] = True
        assert moving[frame][inside].mean() > 0.6, frame
        near = cv2.dilate(inside.astype(np.uint8), np.ones((17, 17), np.uint8)) > 0
        assert moving[frame][~near].mean() < 0.04, frame
    assert sky[:, : SKY_ROWS - 4].mean() > 0.95
    assert sky[:, SKY_ROWS:].mean() < 0.01


def test_the_square_moves_and_the_sky_is_sky(world):
    labels = pixel_labels(world["video"], _geometry(world))
    assert labels.dtype == np.uint8
    _check((labels & MOVING) > 0, (labels & SKY) > 0)
    assert labels.max() <= MOVING | SKY


def test_what_was_measured_is_no_sky(world):
    full = np.where(world["depth_m"] > 0, world["depth_m"], np.float32(4))
    assert not (pixel_labels(world["video"], _geometry(world, depth_m=full)) & SKY).any()
    distrusted = pixel_labels(world["video"], _geometry(world, depth_m=full, confidence=np.zeros_like(full)))
    assert (distrusted & SKY).any()


def _wall(step: tuple[int, int], square_step: tuple[int, int]) -> tuple[np.ndarray, ClipGeometry, np.ndarray]:
    """A camera moves along a textured wall by `step` pixels (right, down) a frame, past a square with its own step.

    Video, exact cameras and depth, and the pixels of the square.
    """
    count, height, width, focal, distance = 13, 144, 192, 160.0, 4.0
    random = np.random.default_rng(2)
    texture = cv2.resize(random.integers(0, 256, (90, 110, 3), dtype=np.uint8), None, fx=4, fy=4)
    texture[:, 140:148] = 255  # a white post, along the way of a camera that moves down
    patch = cv2.resize(random.integers(0, 256, (9, 9, 3), dtype=np.uint8), (36, 36))
    video = np.empty((count, height, width, 3), np.uint8)
    square = np.zeros((count, height, width), bool)
    pose_c2w = np.tile(np.eye(4), (count, 1, 1))
    for index in range(count):
        right, down = np.array(step) * index
        video[index] = texture[down : down + height, right : right + width]
        x, y = np.array([100, 60]) + np.array(square_step) * index
        square[index, y : y + 36, x : x + 36] = True
        video[index, y : y + 36, x : x + 36] = patch
        pose_c2w[index, :2, 3] = np.array([right, down]) * distance / focal
    K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    geometry = ClipGeometry(
        depth_m=np.full(square.shape, distance, np.float32),
        confidence=(~square).astype(np.float32),
        K=np.tile(K, (count, 1, 1)),
        pose_c2w=pose_c2w,
        pose_confidence=np.ones(count, np.float32),
    )
    return video, geometry, square


def test_a_thing_without_trusted_depth_moves_where_it_leaves_its_epipolar_lines():
    video, geometry, square = _wall(step=(3, 0), square_step=(1, 3))
    moving = (pixel_labels(video, geometry) & MOVING) > 0
    assert moving[square].mean() > 0.6
    near = np.stack([cv2.dilate(mask.astype(np.uint8), np.ones((17, 17), np.uint8)) > 0 for mask in square])
    assert moving[~near].mean() < 0.01
    along, geometry, square = _wall(step=(3, 0), square_step=(-1, 0))
    assert ((pixel_labels(along, geometry) & MOVING) > 0)[square].mean() < 0.2, "its depth could be this one"


def test_gmflow_gets_pairs_both_ways_and_its_flow_decides(monkeypatch):
    video, geometry, square = _wall(step=(3, 0), square_step=(1, 3))
    sizes = set()

    def stand_in(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Flow by DIS in the layout of the network."""
        sizes.add(tuple(first.shape))
        assert torch.equal(first[0], second[1])
        assert torch.equal(first[1], second[0])
        frames = (first.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
        return torch.from_numpy(np.stack(flow_between(frames[0], frames[1], "dis"))).permute(0, 3, 1, 2)

    monkeypatch.setattr("fw_data.annotators.gmflow.weights.load_gmflow", lambda: stand_in)
    moving = (pixel_labels(video, geometry, method="gmflow") & MOVING) > 0
    assert sizes == {(2, 3, 192, 256)}
    assert moving[square].mean() > 0.6
    assert moving[~square].mean() < 0.03


def test_no_depth_is_needed_to_see_that_nothing_moves():
    video, geometry, _ = _wall(step=(3, 1), square_step=(-3, -1))
    distrusted = replace(geometry, confidence=np.zeros_like(geometry.confidence))
    assert ((pixel_labels(video, distrusted) & MOVING) > 0).mean() < 0.01


def test_edges_along_the_motion_of_the_camera_are_no_logo():
    video, geometry, _ = _wall(step=(0, 3), square_step=(0, -3))
    assert overlay_mask(video).mean() > 0.01, "they stand still"
    assert not overlay_pixels(video, geometry).any()


def test_a_larger_image_has_the_labels_of_its_thumbnail(world):
    """Enlarged without smoothing: shrunk to the thumbnail and enlarged again, it is the same."""
    large = [cv2.resize(frame, None, fx=4, fy=4, interpolation=cv2.INTER_NEAREST) for frame in world["video"][:3]]
    depth_m = world["depth_m"][:3].repeat(4, 1).repeat(4, 2)
    geometry = ClipGeometry(
        depth_m=depth_m,
        confidence=(depth_m > 0).astype(np.float32),
        K=world["K"][:3] * np.array([[4.0], [4.0], [1.0]]),
        pose_c2w=world["pose_c2w"][:3],
        pose_confidence=np.ones(3, np.float32),
    )
    labels = pixel_labels(np.stack(large), geometry)
    assert labels.shape == (3, 4 * HEIGHT, 4 * WIDTH)
    moving = labels[1] & MOVING
    assert moving.any()
    small = cv2.resize(moving, (480, 360), interpolation=cv2.INTER_NEAREST_EXACT)
    again = cv2.resize(small, moving.shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    np.testing.assert_array_equal(again, moving)


def test_one_frame_has_nothing_to_move_against(world):
    one = ClipGeometry(
        depth_m=world["depth_m"][:1],
        confidence=np.ones_like(world["depth_m"][:1]),
        K=world["K"][:1],
        pose_c2w=world["pose_c2w"][:1],
        pose_confidence=np.ones(1, np.float32),
    )
    assert not (pixel_labels(world["video"][:1], one) & MOVING).any()


def test_a_dataset_holds_them_for_every_frame_and_window(dataset, monkeypatch):
    data = ClipDataset(dataset)
    record, clip = data.records[0], data.load(0)
    assert (record.has_masks, set(record.members)) == (True, set(record.suffixes))
    assert clip.moving is not None
    assert clip.sky is not None
    _check(clip.moving, clip.sky)
    for whole_blobs in (1 << 18, 0):
        monkeypatch.setattr("fw_data.dataset.reader._WHOLE", whole_blobs)
        part, masks = data.load(0, slice(2, 9, 3)), data.masks(0, slice(2, 9, 3))
        assert masks is not None
        np.testing.assert_array_equal(part.moving, clip.moving[2:9:3])
        np.testing.assert_array_equal(masks.sky, clip.sky[2:9:3])
    assert data.load(0, masks=False).moving is None
    assert dataset_stats(data.records)["with_masks"] == 1
    assert contact_sheet(clip, record).height > contact_sheet(data.load(0, masks=False), record).height


def test_a_dataset_without_masks_reads_as_before(dataset, tmp_path):
    """As versions before them wrote it: no such column."""
    shutil.copytree(dataset, tmp_path / "old", ignore=shutil.ignore_patterns(".work"))
    table = pq.read_table(tmp_path / "old" / MANIFEST_NAME)
    pq.write_table(table.drop_columns(["has_masks"]), tmp_path / "old" / MANIFEST_NAME)
    old = ClipDataset(tmp_path / "old")
    assert (old.load(0).moving, old.load(0).sky, old.masks(0)) == (None, None, None)
    table = BucketTable(buckets=(Bucket(frames=5, height=48, width=64),))
    assert table.assign(old.records, need_masks=True).unusable == {"no masks": 1}


def test_labels_and_the_record_must_agree(dataset, world):
    data = ClipDataset(dataset)
    clip, cameras = data.load(0), data.cameras(0)
    with pytest.raises(ValueError, match="has_masks"):
        pack_clip(
            data.records[0],
            video=clip.video,
            depth_m=clip.depth_m,
            confidence=clip.confidence,
            cameras=cameras,
            crf=14,
        )


def test_batches_have_them_where_asked(dataset):
    data = ClipDataset(dataset)
    table = BucketTable(buckets=(Bucket(frames=5, height=48, width=64),))
    batch = next(iter(ClipLoader(data, table, seed=0, masks=True)))
    assert batch.moving is not None
    assert batch.sky is not None
    assert batch.moving.shape == batch.sky.shape == batch.depth.shape
    masks = data.masks(0, slice(batch.starts[0], batch.starts[0] + 5))
    assert masks is not None
    assert torch.equal(batch.moving[0], fit_mask(masks.moving, 48, 64))
    assert batch.sky[0, :, :10].float().mean() > 0.9
    assert not (batch.sky & (batch.depth > 0)).any()
    assert next(iter(ClipLoader(data, table, seed=0))).moving is None


def test_a_logo_in_every_frame_is_masked(tmp_path, make_video, scene, run_annotate):
    content = scene(17, height=144, width=208)
    video = content["video"]
    for row in range(3):  # white letters on black: strong edges that stay
        video[:, 12 + 8 * row : 16 + 8 * row, 150:196] = 255
        video[:, 16 + 8 * row : 20 + 8 * row, 150:196] = 0
    make_video(tmp_path / "raw" / "tv.mp4", video)
    (tmp_path / "truth").mkdir()
    np.savez(tmp_path / "truth" / "tv.npz", **{key: content[key] for key in ("depth_m", "K", "pose_c2w")})
    run_annotate(tmp_path / "raw", tmp_path / "out", config={"filters": FilterConfig(max_overlay=0.2)})
    dataset = ClipDataset(tmp_path / "out")
    clip = dataset.load(0)
    logo = (slice(None), slice(14, 34), slice(154, 192))
    assert clip.moving is not None
    assert clip.moving[logo].mean() > 0.95
    assert (clip.confidence[logo] == 0).mean() > 0.95
    away = (slice(None), slice(60, None), slice(None))
    assert clip.moving[away].mean() < 0.05
    assert any("masked" in note for note in dataset.records[0].notes)
