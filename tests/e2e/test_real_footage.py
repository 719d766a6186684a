"""Annotation of a real recording keeps its promises; figures beside COLMAP: `make bench-annotate`."""

from pathlib import Path

import pytest
from benchmarks.annotate import annotate
from benchmarks.recordings import DATA, redkitchen


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="the recording in ../shared/data is not part of the repository")
def test_redkitchen_is_annotated_well(tmp_path: Path) -> None:
    found = annotate(redkitchen(), tmp_path)
    assert found.posed == 81
    assert found.ate_mm is not None
    assert found.focal_percent is not None
    assert found.depth is not None
    assert found.ate_mm <= 20
    assert abs(found.focal_percent) <= 3.5
    assert found.depth.abs_rel_60 <= 0.12
    assert found.depth.coverage_all >= 0.6
