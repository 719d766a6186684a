"""The sampler: every clip once per epoch, at every resume point and any world size."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fw_data.dataset.clip_order import ClipSampler, Draw, PoolSampler, window_start


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 5))
def test_each_epoch_holds_every_clip_once(clips: int, batch: int, seed: int) -> None:
    sampler = ClipSampler(clips=clips, batch=batch, seed=seed)
    stream = [draw for step in range(clips * 2) for draw in sampler.step(step)]
    for epoch in range(2):
        assert Counter(d.clip for d in stream[epoch * clips : (epoch + 1) * clips]) == Counter(range(clips))
    assert [d.epoch for d in stream] == [i // clips for i in range(len(stream))]


@given(st.integers(1, 30), st.sampled_from([1, 2, 3, 4, 6]), st.integers(0, 200))
def test_the_ranks_together_are_the_single_process(clips: int, world: int, step: int) -> None:
    sampler = ClipSampler(clips=clips, batch=12, seed=1)
    parts = [draw for rank in range(world) for draw in sampler.step(step, rank, world)]
    assert sorted(parts, key=lambda d: d.slot) == sampler.step(step)


def test_changing_the_world_size_loses_and_repeats_nothing() -> None:
    stream: list[Draw] = []
    for step in range(25):
        world = (1, 2, 4)[step % 3]
        drawn = [d for rank in range(world) for d in ClipSampler(clips=50, batch=4, seed=3).step(step, rank, world)]
        stream += sorted(drawn, key=lambda d: d.slot)
    assert Counter(d.clip for d in stream) == Counter(dict.fromkeys(range(50), 2))


def test_epochs_and_seeds_differ() -> None:
    orders = {
        tuple(d.clip for d in ClipSampler(clips=30, batch=30, seed=s).step(e)) for s in range(3) for e in range(3)
    }
    assert len(orders) == 9


def test_a_batch_that_cannot_be_cut_is_refused() -> None:
    with pytest.raises(ValueError, match="3"):
        ClipSampler(clips=5, batch=4, seed=0).step(0, 0, 3)


def test_windows_cover_every_start_and_depend_on_all_arguments() -> None:
    starts = [window_start(0, epoch, "clip", 3) for epoch in range(200)]
    assert set(starts) == {0, 1, 2, 3}
    assert window_start(7, 1, "clip", 0) == 0
    assert [window_start(0, e, "other", 3) for e in range(200)] != starts
    assert [window_start(1, e, "clip", 3) for e in range(200)] != starts
    assert starts == [window_start(0, epoch, "clip", 3) for epoch in range(200)]


def test_a_pool_slides_along_the_clips_and_draws_each_about_reuse_times() -> None:
    sampler = PoolSampler(clips=4000, batch=4, seed=3, pool=40, reuse=5)
    draws = [sampler.step(step) for step in range(2000)]
    for step, slots in enumerate(draws):
        first = 4 * (step // 5)
        assert all(first <= draw.clip < first + 40 and draw.clip % 4 == draw.slot for draw in slots)
    counts = Counter(draw.clip for slots in draws for draw in slots)
    inside = [counts[clip] for clip in range(40, 1600)]
    assert 4.7 < sum(inside) / len(inside) < 5.3
    assert draws[700] == PoolSampler(clips=4000, batch=4, seed=3, pool=40, reuse=5).step(700)
    assert draws[700] != PoolSampler(clips=4000, batch=4, seed=4, pool=40, reuse=5).step(700)


def test_ranks_share_no_clip_of_a_pool_and_together_draw_the_batch() -> None:
    sampler = PoolSampler(clips=400, batch=4, seed=3, pool=40, reuse=5)
    ranks = [[sampler.step(step, rank, 2) for step in range(300)] for rank in range(2)]
    seen = [{draw.clip for slots in rank for draw in slots} for rank in ranks]
    assert not seen[0] & seen[1]
    assert sorted(ranks[0][7] + ranks[1][7]) == sorted(sampler.step(7))
    assert max(draw.epoch for slots in ranks[0] for draw in slots) == 0


@pytest.mark.parametrize("wrong", [{"pool": 3}, {"pool": 41}, {"reuse": 0}])
def test_a_pool_smaller_than_the_batch_or_larger_than_the_data_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="pool"):
        PoolSampler(**{"clips": 40, "batch": 4, "seed": 0, "pool": 8, "reuse": 2} | wrong)
