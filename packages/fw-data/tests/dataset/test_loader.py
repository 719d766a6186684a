"""Buckets, the order of batches, and the loader: nothing lost, nothing repeated, cameras right after every crop."""

import itertools
import json
import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fw_data import ClipDataset, DataError
from fw_data.dataset.buckets import Bucket, BucketTable, default_table
from fw_data.dataset.clip_order import BucketSampler, ClipSampler
from fw_data.dataset.loader import ClipLoader
from fw_data.dataset.transforms import fit_window
from fw_geometry.camera import Trajectory

TABLE = BucketTable(buckets=(Bucket(frames=5, height=32, width=48, batch=2), Bucket(frames=9, height=48, width=32)))


@given(
    st.tuples(st.integers(16, 90), st.integers(16, 90)),
    st.tuples(st.sampled_from([16, 32, 48, 64]), st.sampled_from([16, 32, 48, 64])),
    st.tuples(st.floats(0.3, 3), st.floats(0.3, 3), st.floats(0.2, 0.8), st.floats(0.2, 0.8)),
)
@settings(max_examples=80, deadline=None)
def test_a_projected_point_lands_on_the_same_content(source, wanted, lens) -> None:
    """Every stored pixel carries its own ray; after fitting, a point of the world is found where the new K says."""
    (h, w), (height, width), (fx, fy, cx, cy) = source, wanted, lens
    K = np.array([[fx * w, 0, cx * w], [0, fy * h, cy * h], [0, 0, 1]])
    columns, rows = np.meshgrid(np.arange(w) + 0.5, np.arange(h) + 0.5)
    ray_x, ray_y = (columns - K[0, 2]) / K[0, 0], (rows - K[1, 2]) / K[1, 1]
    path = Trajectory(pose_c2w=np.eye(4)[None], K=K[None], width=w, height=h)
    video = np.zeros((1, h, w, 3), np.uint8)
    x, y, fitted = fit_window(video, ray_x[None], ray_y[None], path, height, width)[1:]
    assert x.shape == y.shape == (1, height, width)
    new_columns, new_rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    seen = fitted.K[0, 0, 0] * x[0].numpy() + fitted.K[0, 0, 2], fitted.K[0, 1, 1] * y[0].numpy() + fitted.K[0, 1, 2]
    # the nearest stored pixel is at most half a stored pixel away: half of the zoom in new pixels
    zoom_x, zoom_y = fitted.K[0, 0, 0] / K[0, 0], fitted.K[0, 1, 1] / K[1, 1]
    assert np.abs(seen[0] - new_columns).max() <= zoom_x / 2 + 1e-3
    assert np.abs(seen[1] - new_rows).max() <= zoom_y / 2 + 1e-3
    assert zoom_x == pytest.approx(zoom_y, rel=0.5 / 16 + 0.01)


def test_colors_follow_the_same_map() -> None:
    """A smooth ramp by ray direction, made twice as small: the ramp still says its own ray."""
    h, w = 64, 96
    K = np.array([[80.0, 0, 40], [0, 80, 30], [0, 0, 1]])
    columns, rows = np.meshgrid(np.arange(w) + 0.5, np.arange(h) + 0.5)
    ramp = np.stack([columns - 0.5, rows, rows], -1).astype(np.uint8)  # red says the stored column
    path = Trajectory(pose_c2w=np.eye(4)[None], K=K[None], width=w, height=h)
    labels = np.zeros((1, h, w), np.float32)
    color, _, _, fitted = fit_window(ramp[None], labels, labels, path, 32, 32)
    seen = (color[0, 0, 8].numpy() + 1) * 127.5 + 0.5
    ray = (np.arange(32) + 0.5 - fitted.K[0, 0, 2]) / fitted.K[0, 0, 0]
    np.testing.assert_allclose(seen[2:-2], (80 * ray + 40)[2:-2], atol=0.05)


@given(
    st.lists(st.tuples(st.integers(0, 13), st.integers(1, 5)), min_size=1, max_size=4).filter(
        lambda rows: any(clips for clips, _ in rows)
    ),
    st.integers(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_every_bucket_draws_each_clip_once_before_any_twice(rows, seed) -> None:
    clips, batches = zip(*rows, strict=True)
    sampler = BucketSampler(clips, batches, seed)
    epochs = 3
    total = sum(epochs * n // g for n, g in rows)
    seen = [Counter() for _ in rows]
    for step in range(total):
        bucket, draws = sampler.step(step)
        assert len(draws) == batches[bucket]
        seen[bucket].update(draw.clip for draw in draws)
        assert sampler.epoch(step) < epochs
    assert sampler.epoch(total) >= epochs
    for (count, batch), counter in zip(rows, seen, strict=True):
        assert sum(counter.values()) == epochs * count // batch * batch
        if counter:
            assert max(counter.values()) - min(counter[c] for c in range(count)) <= 1


@given(st.integers(0, 40), st.sampled_from([1, 2, 3, 6]))
def test_the_world_size_does_not_change_what_a_step_holds(step, world_size) -> None:
    sampler = BucketSampler((7, 11), (6, 12), 5)
    whole = sampler.step(step)
    parts = [sampler.step(step, rank, world_size) for rank in range(world_size)]
    assert {part.bucket for part in parts} == {whole.bucket}
    assert sorted((d for part in parts for d in part.draws), key=lambda d: d.slot) == whole.draws


def test_one_bucket_is_the_plain_sampler_and_orders_differ_by_epoch() -> None:
    sampler = BucketSampler((8, 8), (2, 2), 0)
    first, second = ([sampler.step(step).bucket for step in range(8 * e, 8 * e + 8)] for e in range(2))
    assert sorted(first) == sorted(second) == [0] * 4 + [1] * 4
    orders = {tuple(sampler.step(step).bucket for step in range(8 * e, 8 * e + 8)) for e in range(6)}
    assert len(orders) > 2
    with pytest.raises(ValueError, match="3"):
        ClipSampler(clips=4, batch=2, seed=0).step(0, 0, 3)


def test_clips_go_to_the_bucket_nearest_their_shape(shared_dataset):
    record = ClipDataset(shared_dataset[0]).records[0]

    def place(frames: int, height: int, width: int) -> str:
        found = default_table().place(
            record.model_copy(update={"num_frames": frames, "height": height, "width": width})
        )
        return found if isinstance(found, str) else str(default_table().buckets[found])

    assert place(81, 336, 592) == "81x336x592"
    assert place(200, 720, 1280) == "81x336x592"
    assert place(60, 1280, 720) == "49x592x336"
    assert place(17, 480, 480) == "17x448x448"
    assert place(17, 448, 640) == "17x336x592"
    assert place(5, 720, 1280) == "shorter than 17 frames"
    assert place(81, 320, 592) == "smaller than every bucket"
    assert place(81, 448, 1600) == "more than 35% of the image would be cut away"


def test_tables_are_read_and_mistakes_named(tmp_path):
    path = tmp_path / "buckets.toml"
    path.write_text("max_crop = 0.2\n[[bucket]]\nframes = 17\nheight = 64\nwidth = 96\nbatch = 4\n")
    assert BucketTable.read(path) == BucketTable(
        buckets=(Bucket(frames=17, height=64, width=96, batch=4),), max_crop=0.2
    )
    for text, message in [
        ("[[bucket]]\nframes = 16\nheight = 64\nwidth = 96\n", "4n"),
        ("[[bucket]]\nframes = 17\nheight = 60\nwidth = 96\n", "16"),
        ("[[bucket]]\nframes = 17\nheight = 64\n", "width"),
        ("[[bucket]]\nframes = 17\nheight = 64\nwidth = 96\nbatsh = 2\n", "batsh"),
        ("crop = 1\n", "no key 'crop'"),
        ("max_crop = 0.2\n", "at least one"),
        ("[[bucket]\n", "buckets.toml"),
    ]:
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            BucketTable.read(path)


def _take(loader: ClipLoader, count: int) -> list:
    return list(itertools.islice(loader, count))


def test_batches_hold_what_the_dataset_holds(shared_dataset):
    dataset = ClipDataset(shared_dataset[0])
    loader = ClipLoader(dataset, BucketTable(buckets=TABLE.buckets[:1]), seed=1)
    assert loader.assignment.unusable == {}
    for batch in _take(loader, 3):
        assert batch.video.shape == (2, 5, 3, 32, 48)
        assert -1 <= batch.video.min() < batch.video.max() <= 1
        for i, (clip_id, start) in enumerate(zip(batch.ids, batch.starts, strict=True)):
            clip = dataset.load(clip_id, slice(start, start + 5))
            assert start % 4 == 0
            assert batch.captions[i] == clip.caption
            np.testing.assert_array_equal(batch.pose_c2w[i, 0].numpy(), np.eye(4))
            relative = np.linalg.inv(clip.pose_c2w[0]) @ clip.pose_c2w
            np.testing.assert_allclose(batch.pose_c2w[i].numpy(), relative, atol=1e-6)
            assert set(np.unique(batch.depth[i])) <= set(np.unique(clip.depth_m))
    assert {clip_id for batch in _take(loader, 1) for clip_id in batch.ids} == {r.id for r in dataset.records}


def test_resume_is_exact_and_survives_another_world_size(shared_dataset):
    dataset = ClipDataset(shared_dataset[0])
    table = BucketTable(buckets=TABLE.buckets[:1])
    straight = _take(ClipLoader(dataset, table, seed=3), 4)
    loader = ClipLoader(dataset, table, seed=3)
    iterator = iter(loader)
    for _ in range(2):
        next(iterator)
    state = json.loads(json.dumps(loader.state_dict()))
    halves = []
    for rank in range(2):
        again = ClipLoader(dataset, table, seed=3, rank=rank, world_size=2)
        again.load_state_dict(state)
        halves.append(_take(again, 2))
    for batch, left, right in zip(straight[2:], *halves, strict=True):
        assert batch.step == left.step == right.step
        assert (*left.ids, *right.ids) == batch.ids
        assert (*left.starts, *right.starts) == batch.starts
        assert torch.equal(torch.cat([left.video, right.video]), batch.video)
    with pytest.raises(ValueError, match=r"seed.*3"):
        ClipLoader(dataset, table, seed=4).load_state_dict(state)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(1, 4)), min_size=1, max_size=3).filter(
        lambda rows: any(before >= batch for before, _, batch in rows)
    ),
    st.integers(0, 20),
)
@settings(max_examples=30, deadline=None)
def test_added_clips_join_the_epoch_and_every_clip_is_drawn_once_in_it(rows, step) -> None:
    before, added, batches = zip(*rows, strict=True)
    after = [old + new for old, new in zip(before, added, strict=True)]
    first = BucketSampler(before, batches, 1)
    then = first.grown(step, after)
    end = next(s for s in range(step, 1000) if then.epoch(s) == 3)
    seen = [Counter() for _ in rows]
    for bucket, draws in [*map(first.step, range(step)), *map(then.step, range(step, end))]:
        seen[bucket].update((draw.clip, draw.epoch) for draw in draws)
    for counter, old, count, batch in zip(seen, before, after, batches, strict=True):
        since = first.epoch(step) if old else 0
        epochs = range(since + 3)
        due = {(clip, epoch) for epoch in epochs for clip in range(count if epoch >= since else old)}
        assert counter.keys() <= due
        assert max(counter.values(), default=1) == 1
        assert len(due - counter.keys()) < batch, "those that wait to fill a batch"


def test_a_loader_goes_on_when_clips_were_added_and_only_then(shared_dataset, caplog):
    table = BucketTable(buckets=TABLE.buckets[:1])
    grown, small, turned = (ClipDataset(shared_dataset[0]) for _ in range(3))
    small.records = small.records[:1]
    turned.records = turned.records[::-1]

    def resumed(dataset, state, **ranks):
        loader = ClipLoader(dataset, table, seed=3, **ranks)
        loader.load_state_dict(json.loads(json.dumps(state)))
        return loader

    loader = ClipLoader(small, table, seed=3)
    assert {clip_id for batch in _take(loader, 2) for clip_id in batch.ids} == {small.records[0].id}
    state = loader.state_dict()
    caplog.set_level("INFO")
    loader = resumed(grown, state)
    assert "1 clips were added since step 2" in caplog.text
    batches, later = _take(loader, 2), loader.state_dict()
    assert [batch.step for batch in batches] == [2, 3]
    assert {clip_id for batch in batches for clip_id in batch.ids} == {record.id for record in grown.records}
    expected = _take(loader, 2)
    assert [batch.ids for batch in _take(resumed(grown, later), 2)] == [batch.ids for batch in expected]
    halves = [_take(resumed(grown, later, rank=rank, world_size=2), 2) for rank in range(2)]
    for batch, left, right in zip(expected, *halves, strict=True):
        assert (*left.ids, *right.ids) == batch.ids
    with pytest.raises(ValueError, match=r"\[2\].*\[1\]; clips were removed"):
        resumed(small, later)
    for other in (state, later):
        with pytest.raises(ValueError, match="replaced or removed"):
            resumed(turned, other)


def test_clips_without_depth_are_left_out_unless_they_will_do(shared_dataset):
    records = ClipDataset(shared_dataset[0]).records
    mixed = [records[0], records[1].model_copy(update={"has_depth": False})]
    assert TABLE.assign(mixed).unusable == {"no depth": 1}
    assert sum(map(len, TABLE.assign(mixed, need_depth=False).clips)) == 2
    assert TABLE.assign(mixed).describe(TABLE)[-1] == "clips left out: 1 (no depth)"


def test_what_cannot_be_loaded_says_why(shared_dataset):
    dataset = ClipDataset(shared_dataset[0])
    large = BucketTable(buckets=(Bucket(frames=5, height=480, width=640),))
    with pytest.raises(DataError, match="2 clips"):
        ClipLoader(dataset, large, seed=0)
    with pytest.raises(ValueError, match=r"batch.*2.*4"):
        ClipLoader(dataset, TABLE, seed=0, rank=3, world_size=4)
    with pytest.raises(ValueError, match="rank"):
        ClipLoader(dataset, TABLE, seed=0, rank=2, world_size=2)
    assert math.isclose(TABLE.max_crop, 0.35)
