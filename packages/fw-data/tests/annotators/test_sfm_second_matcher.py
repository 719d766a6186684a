"""The second matcher of `sfm`: used before a refusal for too few matches, and only then."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fw_data.annotators import wheels
from fw_data.annotators.base import AnnotationRefused
from fw_data.annotators.sfm import SfmConfig, backend, reconstruction
from fw_data.annotators.sfm.matching.matchers import XFEAT, Matcher
from fw_data.annotators.sfm.matching.networks import ALIKED, LIGHTGLUE
from fw_data.annotators.sfm.sections import Drift
from fw_data.annotators.sfm.spec import SfmSpec

CONFIG = SfmConfig(max_keypoints=200, threads=1)
BLIND = Matcher(extract=XFEAT.extract, match=lambda _a, _b: np.zeros((0, 2), np.int64), pairs=XFEAT.pairs)
"""Finds no match."""


@pytest.fixture
def frames() -> np.ndarray:
    """Four views of a wall and a card in front of it, from a camera that moves sideways."""
    rng = np.random.default_rng(0)
    cells = rng.integers(0, 256, (2, 60, 90, 3), dtype=np.uint8)
    wall, card = (np.kron(paint, np.ones((4, 4, 1), np.uint8)) for paint in cells)
    views = []
    for step in range(4):
        view = wall[20:180, 6 * step + 20 : 6 * step + 220].copy()
        view[40:120, 100 - 8 * step : 170 - 8 * step] = card[40:120, 100:170]
        views.append(view)
    return np.stack(views)


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that seems to hold the weights; the matchers of these tests do not read them."""
    monkeypatch.setenv(wheels.CACHE_VARIABLE, str(tmp_path))
    for file in (ALIKED, LIGHTGLUE):
        file.path.parent.mkdir()
        file.path.touch()


def reconstruct(frames: np.ndarray, config: SfmConfig) -> reconstruction.Reconstruction:
    return reconstruction.reconstruct(frames, np.ascontiguousarray(frames[..., 1]), config, lambda _stage, _part: None)


def with_second(choice: str) -> SfmConfig:
    return SfmConfig(**{**vars(CONFIG), "second_matcher": choice})


@pytest.mark.usefixtures("weights")
def test_it_is_asked_only_when_the_first_one_fails(frames: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        reconstruction, "polish", lambda found, *_: (found.scene, None, 0.0)
    )  # slow, and the same for both
    monkeypatch.setattr(reconstruction, "ALIKED", BLIND)
    usual = reconstruct(frames, with_second("auto"))
    assert not usual.second_matcher
    monkeypatch.setattr(reconstruction, "XFEAT", BLIND)
    monkeypatch.setattr(reconstruction, "ALIKED", XFEAT)
    rescued = reconstruct(frames, with_second("auto"))
    assert rescued.second_matcher
    np.testing.assert_array_equal(rescued.scene.pose_w2c, usual.scene.pose_w2c)
    depth = np.ones(frames.shape[:3], np.float32)
    assert "second_matcher" not in backend.clip_geometry(usual, depth, depth).scores
    assert backend.clip_geometry(rescued, depth, depth).scores["second_matcher"] == 1
    assert "second_matcher" in SfmSpec().score_meanings()
    drifting = replace(usual, drift=Drift(focal=0.2, path=0.03))
    found = backend.clip_geometry(drifting, depth, depth).scores
    assert (found["focal_drift"], found["path_drift"]) == (0.2, 0.03)
    cut = replace(usual, scene=replace(usual.scene, principal_px=(10.0, -4.0)))
    (note,) = backend.clip_geometry(cut, depth, depth).notes
    assert "5.0 % of the long side right of the image center, and 2.0 % above it: the frames may be cut" in note
    near = replace(usual, scene=replace(usual.scene, principal_px=(-4.0, 0.0)))
    (note,) = backend.clip_geometry(near, depth, depth).notes
    assert note == "the principal point is 2.0 % of the long side left of the image center, and 0.0 % above it"
    assert set(found) <= set(SfmSpec().score_meanings())


def test_without_it_the_refusal_says_how_to_get_it(
    frames: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(wheels.CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setattr(reconstruction, "XFEAT", BLIND)
    for choice in ("none", "auto"):
        with pytest.raises(AnnotationRefused) as refusal:
            reconstruct(frames, with_second(choice))
        assert refusal.value.code == "too-few-matches"
        assert "--second-matcher aliked" in refusal.value.hint


@pytest.mark.usefixtures("weights")
def test_when_both_fail_both_are_named(frames: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconstruction, "XFEAT", BLIND)
    monkeypatch.setattr(reconstruction, "ALIKED", BLIND)
    with pytest.raises(AnnotationRefused, match=r"0 of 4 key frames.*ALIKED") as refusal:
        reconstruct(frames, with_second("aliked"))
    assert refusal.value.code == "too-few-matches"


def test_it_is_no_part_of_the_fingerprint() -> None:
    assert SfmSpec(second_matcher="aliked").settings() == SfmSpec(second_matcher="none").settings()
