"""The backend as a whole, on small rendered clips with exact truth and on everything it has to refuse."""

import os
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest

from fw_data.annotators.base import AnnotationRefused, ClipGeometry
from fw_data.annotators.sfm import SfmBackend, SfmConfig, lens, reconstruction, refusals
from fw_data.annotators.sfm.matching.keyframes import Motion
from fw_data.annotators.sfm.matching.matching import PairMatches
from fw_data.annotators.sfm.sections import Drift
from fw_geometry.lenses import Lens
from fw_geometry.metrics import ate

CONFIG = SfmConfig(
    max_keypoints=320, max_keyframes=6, refine_points=250, refine_rounds=1, depth_planes=32, source_views=4, threads=1
)


def detail(seed: int, height: int, width: int) -> np.ndarray:
    """A random image with detail of many sizes."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width, 3))
    for cell in (48, 20, 8, 4):
        noise = rng.normal(0, 42, (height // cell + 2, width // cell + 2, 3))
        image += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(128 + image, 0, 255).astype(np.uint8)


def render(frames: int, height: int, width: int) -> dict[str, np.ndarray]:
    """A slanted wall and four cards in front of it, seen by a camera that moves and turns: video, depth_m, K, poses."""
    focal = 0.8 * max(height, width)
    K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    rays = np.stack([columns, rows, np.ones_like(columns)], -1) @ np.linalg.inv(K).T
    cards = [(6.0, 0.3, (-9, 9), (-9, 9)), (4.2, 0.0, (-1.6, -0.5), (-1.5, 0.4)), (3.6, -0.2, (0.5, 1.5), (-0.6, 0.9))]
    cards += [(4.8, 0.1, (-0.4, 0.7), (0.6, 1.8)), (4.5, 0.0, (1.8, 3.0), (-1.8, 0.5))]
    paints = [detail(number, 900, 900) for number in range(len(cards))]
    video, depths, poses = [], [], []
    for index in range(frames):
        time = index / (frames - 1) - 0.5
        turn = -0.24 * time
        pose = np.eye(4)
        pose[:3, :3] = [[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]]
        pose[:3, 3] = [1.4 * time, 0.25 * time, 0.3 * time]
        directions = rays @ pose[:3, :3].T
        depth, frame = np.full((height, width), np.inf), np.zeros((height, width, 3), np.uint8)
        for paint, (distance, slope, across, down) in zip(
            paints, cards, strict=True
        ):  # the plane z = distance + slope x
            numerator = distance + slope * pose[0, 3] - pose[2, 3]
            reach = numerator / (directions[..., 2] - slope * directions[..., 0])
            x, y = (pose[k, 3] + directions[..., k] * reach for k in (0, 1))
            seen = (x > across[0]) & (x < across[1]) & (y > down[0]) & (y < down[1]) & (reach > 0) & (reach < depth)
            at = [((value + 9) * 50).astype(np.float32) for value in (x, y)]
            color = cv2.remap(paint, at[0], at[1], cv2.INTER_LINEAR)
            depth[seen], frame[seen] = reach[seen], color[seen]
        video.append(frame)
        depths.append(depth)
        poses.append(pose)
    return {"video": np.stack(video), "depth_m": np.stack(depths), "K": K, "pose_c2w": np.stack(poses)}


def check(found: ClipGeometry, truth: dict[str, np.ndarray]) -> None:
    path = np.linalg.norm(np.diff(truth["pose_c2w"][:, :3, 3], axis=0), axis=1).sum()
    assert ate(found.pose_c2w, truth["pose_c2w"]).rmse < 0.01 * path
    assert found.K[0, 0, 0] == pytest.approx(truth["K"][0, 0], rel=0.1)  # the usual one is 12 % away
    assert found.depth_m.shape == truth["depth_m"].shape
    sure = found.confidence > 0.3
    assert sure.mean() > 0.5
    scale = np.median(truth["depth_m"][sure] / found.depth_m[sure])
    error = np.abs(scale * found.depth_m - truth["depth_m"]) / truth["depth_m"]
    assert error[sure].mean() < 0.04
    assert found.confidence.min() >= 0
    assert found.confidence.max() <= 1
    assert (found.depth_m > 0).mean() > 0.99


def test_odd_sizes_are_annotated() -> None:
    truth = render(7, 107, 141)
    stages: list[tuple[str, float]] = []
    found = SfmBackend(CONFIG).annotate(truth["video"], progress=lambda stage, part: stages.append((stage, part)))
    check(found, truth)
    parts = [part for _, part in stages]
    assert parts == sorted(parts)
    assert parts[-1] == 1.0
    assert {stage for stage, _ in stages} == {"motion", "features", "matching", "mapping", "adjusting", "depth"}


def test_portrait_is_annotated_and_the_same_input_gives_the_same_bytes() -> None:
    truth = render(6, 128, 96)
    first, second = (SfmBackend(CONFIG).annotate(truth["video"]) for _ in range(2))
    check(first, truth)
    for name in ("depth_m", "confidence", "K", "pose_c2w", "pose_confidence"):
        assert getattr(first, name).tobytes() == getattr(second, name).tobytes()
    assert first.scores == second.scores


def test_frames_of_a_bent_lens_come_back_straight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lens, "MIN_OBSERVATIONS", 300)  # few small frames tell little of a lens
    for noise in ("MATCHES", "REFINED"):
        monkeypatch.setattr(reconstruction, noise, getattr(reconstruction, noise)._replace(evidence=1.0))
    height, width = 144, 192
    truth = render(7, height, width)
    focal = 1.2 * truth["K"][0, 0]
    bent = Lens(fx=focal, fy=focal, cx=width / 2, cy=height / 2, radial=(-0.2,))
    pixels = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), -1).reshape(-1, 2)
    rays = bent.unproject(pixels)
    places = ((rays / rays[:, 2:]) @ truth["K"].T)[:, :2].reshape(height, width, 2).astype(np.float32) - 0.5
    video = np.stack([cv2.remap(frame, places[..., 0], places[..., 1], cv2.INTER_CUBIC) for frame in truth["video"]])
    found = SfmBackend(CONFIG).annotate(video)
    assert found.frames is not None
    assert found.frames.shape == video.shape
    assert "undistorted" in found.notes[0]
    assert found.scores["radial_distortion"] == pytest.approx(-0.2, abs=0.06)
    assert found.K[0, 0, 0] == pytest.approx(focal, rel=0.1)
    path = np.linalg.norm(np.diff(truth["pose_c2w"][:, :3, 3], axis=0), axis=1).sum()
    assert ate(found.pose_c2w, truth["pose_c2w"]).rmse < 0.01 * path
    edge = np.s_[:, ::12, :: width - 1]
    assert np.abs(found.frames[edge].astype(float) - video[edge]).mean() > 3  # nothing moves in the middle
    center = np.s_[:, height // 2 - 6 : height // 2 + 6, width // 2 - 6 : width // 2 + 6]
    assert np.abs(found.frames[center].astype(float) - video[center]).mean() < 12


def turning(frames: int) -> np.ndarray:
    """Images of a camera that only turns."""
    wide, height, width = detail(9, 600, 800), 96, 128
    K = np.array([[110.0, 0, width / 2], [0, 110.0, height / 2], [0, 0, 1]])
    K_wide = np.array([[330.0, 0, 400], [0, 330.0, 300], [0, 0, 1]])
    images = []
    for angle in np.linspace(-0.15, 0.15, frames):
        R = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
        images.append(cv2.warpPerspective(wide, K @ R @ np.linalg.inv(K_wide), (width, height)))
    return np.stack(images)


CASES = {
    "too-few-frames": lambda: turning(2),
    "too-small": lambda: turning(6)[:, :40],
    "no-texture": lambda: np.zeros((6, 96, 128, 3), np.uint8),
    "no-motion": lambda: np.repeat(turning(1), 6, axis=0),
    "no-parallax": lambda: turning(7),
}


@pytest.mark.parametrize("code", CASES)
def test_what_cannot_be_annotated_is_refused_with_its_reason(code: str) -> None:
    with pytest.raises(AnnotationRefused) as refusal:
        SfmBackend(CONFIG).annotate(CASES[code]())
    assert refusal.value.code == code
    assert len(str(refusal.value)) > 40
    assert refusal.value.hint


def test_noise_is_refused() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (5, 96, 128, 3), dtype=np.uint8)
    with pytest.raises(AnnotationRefused) as refusal:
        SfmBackend(CONFIG).annotate(noise)
    assert refusal.value.code in {"too-few-matches", "too-little-overlap", "not-rigid"}


def test_refusals_of_matches() -> None:
    def pair(flat: float) -> PairMatches:
        return PairMatches(
            first=0, second=1, indices=np.zeros((30, 2), np.int64), candidates=30, homography_fraction=flat
        )

    def motion(survival: float) -> Motion:
        return Motion(step_px=np.ones(4), survival=np.full(4, survival), corners=np.full(5, 99.0), span_px=9.0)

    assert refusals.nothing_mapped([pair(0.3)], motion(0.1)).code == "too-little-overlap"
    assert refusals.nothing_mapped([pair(0.3)], motion(0.9)).code == "not-rigid"
    with pytest.raises(AnnotationRefused, match="2 of 6") as few:
        refusals.check_matches([pair(0.3)], 6)
    assert few.value.code == "too-few-matches"
    with pytest.raises(AnnotationRefused) as flat:
        refusals.nothing_mapped([pair(0.95)], motion(0.9))
    assert flat.value.code == "no-parallax"


def test_depth_that_nothing_confirms_is_refused() -> None:
    confidence = np.zeros((2, 10, 10), np.float32)
    confidence[:, :2] = 0.5
    refusals.check_depth(confidence, None)
    confidence[0, 0, 0] = 0
    with pytest.raises(AnnotationRefused, match=r"20 %.*cameras") as refusal:
        refusals.check_depth(confidence, None)
    assert refusal.value.code == "depth-not-confirmed"


def test_sections_that_agree_about_the_cameras_need_less_confirmed_depth() -> None:
    confidence = np.zeros((2, 10, 10), np.float32)
    confidence[:, :1] = 0.5
    refusals.check_depth(confidence, Drift(focal=0.15, path=0.001))
    with pytest.raises(AnnotationRefused, match=r"10 %.*cameras"):
        refusals.check_depth(confidence, Drift(focal=0.01, path=0.011))
    confidence[:, :, 4:] = 0
    with pytest.raises(AnnotationRefused, match=r"4 %.*parallax"):
        refusals.check_depth(confidence, Drift(focal=0.01, path=0.001))


def test_frames_without_a_pose_are_named() -> None:
    posed = np.array([True, True, False, False, True])
    with pytest.raises(AnnotationRefused, match=r"frame 2\b.*\b3\b") as refusal:
        refusals.check_posed(posed, 1.0)
    assert refusal.value.code == "frames-not-posed"
    refusals.check_posed(posed, 0.6)


def test_a_process_with_the_backend_still_ends_quietly_on_sigterm() -> None:
    code = "import os, signal; from fw_data.annotators.sfm import SfmBackend; os.kill(os.getpid(), signal.SIGTERM)"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, timeout=300, check=False)
    assert ended.returncode == -signal.SIGTERM
    assert ended.stderr == b""
