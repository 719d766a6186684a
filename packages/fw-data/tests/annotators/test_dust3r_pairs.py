"""Pair graphs and windows: how many pairs, no wrap-around, both directions, everything connected."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fw_data.annotators.dust3r.pairs import pair_graph, windows


@pytest.mark.parametrize(
    ("graph", "reach", "count"),
    [("swin", 3, 474), ("swin", 5, 780), ("logwin", 5, 748), ("complete", 0, 6480), ("oneref", 0, 160)],
)
def test_counts_of_81_frames(graph, reach, count) -> None:
    pairs = pair_graph(81, graph, reach)
    assert len(pairs) == len(set(pairs)) == count


@given(frames=st.integers(2, 40), graph=st.sampled_from(["swin", "logwin"]), reach=st.integers(1, 5))
def test_graphs_are_symmetric_connected_and_open(frames, graph, reach) -> None:
    pairs = set(pair_graph(frames, graph, reach))
    assert {(j, i) for i, j in pairs} == pairs
    assert all((i, i + 1) in pairs for i in range(frames - 1))
    furthest = reach if graph == "swin" else 2 ** (reach - 1)
    assert max(abs(i - j) for i, j in pairs) <= furthest  # no pair joins the two ends
    assert {i for i, _ in pairs} == set(range(frames))


def test_oneref_takes_any_reference() -> None:
    assert pair_graph(3, "oneref", 1) == [(0, 1), (1, 0), (1, 2), (2, 1)]
    with pytest.raises(ValueError, match="0"):
        pair_graph(3, "oneref", 3)
    with pytest.raises(ValueError, match="2"):
        pair_graph(1, "swin")
    with pytest.raises(ValueError, match="0"):
        pair_graph(4, "swin", 0)


@given(frames=st.integers(2, 300), length=st.integers(3, 60), data=st.data())
def test_windows_cover_and_overlap(frames, length, data) -> None:
    overlap = data.draw(st.integers(2, length - 1))
    cut = list(windows(frames, length, overlap))
    assert cut[0].start == 0
    assert cut[-1].stop == frames
    assert all(len(window) == min(length, frames) for window in cut)
    assert all(before.stop - after.start >= overlap for before, after in pairwise(cut))
    assert len(cut) <= max(1, -(-(frames - overlap) // (length - overlap)))


def test_windows_need_room_to_advance() -> None:
    with pytest.raises(ValueError, match="overlap"):
        list(windows(50, 10, 10))
