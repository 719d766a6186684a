"""The clips of a run: buckets of aspect ratio and length, frame rates, skipped clips, and their summary."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from fw_data.dataset.clip_order import ClipSampler, Draw
from fw_data.dataset.reader import ClipDataset
from fw_data.dataset.schema import ClipRecord
from fw_model.encoders.hashing import HashTextEncoder
from fw_train.config.schema import ClipConfig, ConfigError, TrainConfig
from fw_train.data.order import Added, ClipOrder, OrderSampler
from fw_train.data.split import Shape, middle_start, shapes_of, split_clips, training_starts, without

CLIP = ClipConfig(frames=9, height=32, width=48, held_out=0.2)


@pytest.fixture
def records(dataset: Path) -> list[ClipRecord]:
    return ClipDataset(dataset).records


def changed(records: list[ClipRecord], count: int, **update: Any) -> list[ClipRecord]:
    """The records with the first `count` changed; all are long enough for nine frames."""
    longer = [record.model_copy(update={"num_frames": 12}) for record in records]
    return [record.model_copy(update=update) for record in longer[:count]] + longer[count:]


def told(records: list[ClipRecord], clip: ClipConfig, batch: int = 2) -> str:
    return "\n".join(split_clips(records, clip).describe(TrainConfig(clip=clip, batch=batch)))


def test_portrait_square_and_short_clips_get_buckets_of_their_own(records: list[ClipRecord]) -> None:
    mixed = changed(records, 4, width=64, height=96)
    mixed[4] = mixed[4].model_copy(update={"width": 64, "height": 64})
    mixed[5] = mixed[5].model_copy(update={"num_frames": 6})
    clip = dataclasses.replace(CLIP, aspect_buckets=True, frame_buckets=(5,))
    assert shapes_of(clip)[:3] == (Shape(9, 32, 48), Shape(9, 48, 32), Shape(9, 32, 32))
    split = split_clips(mixed, clip)
    assert {split.shape(record.id) for record in mixed[:4]} == {Shape(9, 48, 32)}
    assert split.shape(mixed[4].id) == Shape(9, 32, 32)
    assert split.shape(mixed[5].id) == Shape(5, 32, 48)
    assert split.shape(mixed[6].id) == Shape(9, 32, 48)
    text = told(mixed, clip)
    assert "bucket 9 frames of 32x48: 4 clips" in text
    assert "bucket 5 frames of 48x32: 1 clips, fewer than batch = 2" in text
    assert "cropping" not in text


def test_without_buckets_the_crop_is_reported(records: list[ClipRecord]) -> None:
    text = told(changed(records, 4, width=64, height=96), CLIP)
    assert "cropping: 4 of 12 clips lose 56% of the image; --clip.aspect-buckets" in text
    assert "cropping" not in told(changed(records, 0), CLIP)


def test_a_clip_that_fits_no_bucket_is_left_out_with_the_reason(records: list[ClipRecord]) -> None:
    clip = dataclasses.replace(CLIP, aspect_buckets=True)
    split = split_clips(changed(records, 2, width=480, height=32), clip)
    assert list(split.unusable.values()) == [2]
    assert "35%" in next(iter(split.unusable))


def test_captions_beyond_the_encoder_are_reported(records: list[ClipRecord]) -> None:
    split = split_clips(changed(records, 5, caption="one two three four five"), CLIP)
    words = max(len(record.caption.split()) for record in records)
    assert split.long_captions(HashTextEncoder(text_len=max(words, 5), text_dim=4)) == []
    others = sum(len(record.caption.split()) > 3 for record in records[5:])
    (line,) = split.long_captions(HashTextEncoder(text_len=3, text_dim=4))
    assert line.startswith(f"captions: {5 + others} of 12 clips have longer ones; the text encoder reads 3 words")


def test_missing_captions_and_mixed_rates_are_reported(records: list[ClipRecord]) -> None:
    text = told(changed(records, 5, caption=" "), CLIP)
    assert "captions: 5 of 12 clips have none" in text
    mixed = changed(records, 4, fps=24.0)
    text = told(mixed, CLIP)
    assert "mixed: 8 of 8 fps, 4 of 24 fps; exports play at 8 fps" in text
    assert "--clip.fps 8" in text
    split = split_clips(mixed, dataclasses.replace(CLIP, frames=5, fps=8.0))
    assert split.unusable == {"shorter than clip.frames = 5": 4}
    longer = [record.model_copy(update={"num_frames": 13}) for record in mixed]
    resampled = dataclasses.replace(CLIP, frames=5, fps=8.0)
    split = split_clips(longer, resampled)
    assert split.fps == 8.0
    assert training_starts(longer[0], split.shape(longer[0].id), resampled) == range(0, 1, 4)  # 13 of 24 fps span all
    assert middle_start(longer[5], split.shape(longer[5].id), resampled) == 4
    assert "frame rate: 8 fps, 4 clips are resampled" in told(longer, resampled)
    assert "recorded at 8 fps, slower than clip.fps = 24" in told(mixed, dataclasses.replace(CLIP, frames=5, fps=24.0))


def test_frame_rates_and_buckets_are_part_of_the_identity() -> None:
    usual = TrainConfig()
    for clip in (ClipConfig(fps=8.0), ClipConfig(aspect_buckets=True), ClipConfig(frame_buckets=(5,))):
        assert dataclasses.replace(usual, clip=clip).digest() != usual.digest()
    for clip in (ClipConfig(num_workers=3), ClipConfig(encode_first=True)):
        assert dataclasses.replace(usual, clip=clip).digest() == usual.digest()


def test_one_usable_clip_is_too_few_and_the_message_agrees(records: list[ClipRecord]) -> None:
    with pytest.raises(ConfigError, match=r"only 1 clip is in the dataset; .*2"):
        split_clips(changed(records, 0)[:1], CLIP)
    with pytest.raises(ConfigError, match=r"only 1 clip of 12 .*11 clips: stored at 16x16"):
        split_clips(changed(records, 11, width=16, height=16), CLIP)
    with pytest.raises(ConfigError, match="empty"):
        split_clips([], CLIP)


def test_skipped_clips_must_be_training_clips(records: list[ClipRecord]) -> None:
    split = split_clips(changed(records, 0), CLIP)
    first = split.train[0].id
    assert without(split, [first, first]).skipped == (first,)
    assert f"clips skipped: {first}" in "\n".join(without(split, [first]).describe(TrainConfig(clip=CLIP)))
    with pytest.raises(ConfigError, match=f"{split.held_out[0].id} is held out"):
        without(split, [split.held_out[0].id])
    with pytest.raises(ConfigError, match=rf"{first}x .*did you mean {first}\?"):
        without(split, [f"{first}x"])


def test_a_skipped_clip_is_replaced_and_all_other_draws_stay() -> None:
    config = TrainConfig(batch=3, seed=5)
    plain = ClipSampler(clips=7, batch=3, seed=5)
    skipping = OrderSampler(config, ClipOrder(clips=7, skipped=frozenset({2, 3})))
    for step in range(20):
        assert OrderSampler(config, ClipOrder(clips=7)).step(step) == plain.step(step)
        for old, new in zip(plain.step(step), skipping.step(step), strict=True):
            assert new == (old._replace(clip=4) if old.clip in (2, 3) else old)
    with pytest.raises(ConfigError, match="all 7"):
        OrderSampler(config, ClipOrder(clips=7, skipped=frozenset(range(7))))


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_step_takes_clips_of_one_bucket(world_size: int) -> None:
    buckets = ((0, 3, 5, 6), (), (1, 2, 4, 7))
    sampler = OrderSampler(TrainConfig(batch=2), ClipOrder(clips=8, buckets=buckets, skipped=frozenset({4})))
    seen = []
    for step in range(8):
        draws = [draw for rank in range(world_size) for draw in sampler.step(step, rank, world_size)]
        clips = {draw.clip for draw in draws}
        assert clips <= {0, 3, 5, 6} or clips <= {1, 2, 7}
        seen += [draw.clip for draw in draws]
    assert set(seen) == {0, 1, 2, 3, 5, 6, 7}


@pytest.mark.parametrize(
    ("order", "pool"),
    [
        (ClipOrder(clips=16), 0),
        (ClipOrder(clips=16, buckets=((), (0, 2, 3, 5, 8, 9, 11, 13), (1, 4, 6, 7, 10, 12, 14, 15))), 0),
        (ClipOrder(clips=16, buckets=((9, 12, 13, 14), (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 15))), 0),
        (ClipOrder(clips=16), 4),
    ],
    ids=["plain", "buckets", "a new bucket", "pool"],
)
def test_added_clips_change_no_draw_before_them_and_are_drawn_from_then_on(order: ClipOrder, pool: int) -> None:
    config = TrainConfig(batch=2, clip=ClipConfig(pool=pool, reuse=2))

    def drawn(clips: int, steps: range, *added: Added) -> list[Draw]:
        buckets = [tuple(clip for clip in bucket if clip < clips) for bucket in order.buckets]
        sampler = OrderSampler(config, ClipOrder(clips=clips, buckets=buckets), added)
        draws = [sampler.step(step) for step in steps]
        for step, both in zip(steps, draws, strict=True):
            assert [sampler.step(step, rank, 2)[0] for rank in range(2)] == both
        return [draw for both in draws for draw in both]

    start = drawn(8, range(3))
    once = start + drawn(16, range(3, 15), Added(3, 8, 0))
    middle = drawn(12, range(2, 3), Added(2, 4, 0))
    twice = start[:4] + middle + drawn(16, range(3, 15), Added(2, 4, 0), Added(3, 4, 0))
    for draws in (once, twice) if not pool else ():
        assert len({(draw.clip, draw.epoch) for draw in draws}) == len(draws), "no clip twice in an epoch"
        assert {draw.clip for draw in draws} == set(range(16))
    assert pool or once != twice
    assert pool == 0 or {draw.clip for draw in drawn(16, range(12, 15), Added(3, 8, 0))} - set(range(8))
