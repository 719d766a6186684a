"""The global alignment on the recorded set and the real recording; figures: `python -m benchmarks.alignment`."""

import pytest
from benchmarks import alignment
from benchmarks.alignment_data import DATA, make_pairs, redkitchen

from fw_data.annotators.dust3r.pairs import pair_graph

UPSTREAM_ATE_MM, UPSTREAM_CPU_S = 0.502, 20.5

needs_recording = pytest.mark.skipif(
    not (DATA.is_dir() and alignment.RECORDED.is_dir()),
    reason="the recordings in ../shared are not part of the repository",
)


@needs_recording
def test_recorded_set_is_better_and_eight_times_faster_than_the_published_schedule() -> None:
    found = alignment.ours(*alignment.recorded())
    assert found.ate_mm <= UPSTREAM_ATE_MM
    assert found.cpu_s <= UPSTREAM_CPU_S / 8
    assert found.focal_percent < 0.1


@needs_recording
@pytest.mark.parametrize(("kind", "limit_mm"), [("along", 0.5), ("points", 2.0), ("motion", 2.5)])
def test_a_third_of_wrong_pairs_changes_little(kind, limit_mm) -> None:
    truth = redkitchen(0, 12, 4)
    maps = make_pairs(truth, alignment.GRAPH_12, noise=0.02, outliers=0.3, seed=5, kind=kind)
    assert alignment.ours(maps, truth).ate_mm <= limit_mm


@needs_recording
@pytest.mark.slow
def test_81_frames_stay_together() -> None:
    truth = redkitchen(0, 81, 1)
    maps = make_pairs(truth, pair_graph(81, "logwin", 5), noise=0.02, outliers=0.1, seed=2, kind="points")
    assert alignment.ours(maps, truth).ate_mm <= 10
