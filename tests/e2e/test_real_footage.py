"""Annotation of a real recording keeps its promises (see real_footage.py; run that file to see the figures)."""

from pathlib import Path

import pytest
from tests.e2e import real_footage


@pytest.mark.slow
@pytest.mark.skipif(
    not real_footage.DATA.is_dir(), reason="the recording in ../shared/data is not part of the repository"
)
def test_redkitchen_is_annotated_well(tmp_path: Path) -> None:
    figures = real_footage.measure(tmp_path)
    assert figures.frames == 81
    assert figures.ate_mm <= 20
    assert figures.focal_px == pytest.approx(525, rel=0.035)
    assert figures.abs_rel_60 <= 0.12
    assert figures.coverage_all >= 0.6
