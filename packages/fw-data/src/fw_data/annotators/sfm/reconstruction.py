"""From frames to cameras and scene points: key frames are matched and mapped, the rest is posed, all is adjusted.

Axis legend: f frames, h height, w width.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from fw_data.annotators.base import AnnotationRefused
from fw_data.annotators.sfm import refusals
from fw_data.annotators.sfm.bundle import adjust, drop_outliers
from fw_data.annotators.sfm.calibration import (
    FOCAL_RANGE,
    LOSS_PX,
    MATCHES,
    REFINED,
    fit_shutter,
    robust_cost,
    settle_focal,
)
from fw_data.annotators.sfm.config import SfmConfig
from fw_data.annotators.sfm.focal import guess_focal_px
from fw_data.annotators.sfm.lens import MIN_REMOVED, LensRemoval, remove_lens
from fw_data.annotators.sfm.mapping import Verified, grow, scene_from_model, verify
from fw_data.annotators.sfm.matching.features import Features
from fw_data.annotators.sfm.matching.keyframes import Motion, measure_motion, select_keyframes
from fw_data.annotators.sfm.matching.matchers import ALIKED, XFEAT, Matcher
from fw_data.annotators.sfm.matching.matching import PairMatches, match_keyframes
from fw_data.annotators.sfm.matching.networks import second_matcher_is_ready
from fw_data.annotators.sfm.refinement import refine_observations, spread_points
from fw_data.annotators.sfm.resection import pose_remaining_frames
from fw_data.annotators.sfm.reversal import candidates, likeliest
from fw_data.annotators.sfm.scene import SparseScene
from fw_data.annotators.sfm.sections import Drift, compare_sections
from fw_data.annotators.sfm.workers import map_parallel
from fw_data.annotators.sfm.zoom import fit_camera, fit_zoom
from fw_data.annotators.wheels import WheelFileMissing

Report = Callable[[str, float], None]

MIN_MAPPED = 0.4
STARTS = ((1.0, 0), (1.0, 1), (0.75, 0), (1.35, 0), (1.8, 0))
"""Factor on the guessed focal length, and rank of the first pair."""
MIN_STARTS = 2
TRIAL_POINTS = 300
"""Scene points whose positions are refined to tell a scene from its twin."""
NEAR_GUESS = 0.2
"""Log ratio of focal lengths: a start that ends further away converged to another minimum."""


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """A sparse scene and what is known about how it came about."""

    scene: SparseScene
    motion: Motion
    keyframes: list[int]
    match_inlier_fraction: float
    """Part of the matches that agreed with one rigid scene, over all pairs."""
    focal_sigma: float
    """Standard deviation of the logarithm of the focal length."""
    drift: Drift | None
    """Agreement of the sections of the clip; None where they are too short."""
    second_matcher: bool
    """Whether the matches are those of the second matcher."""
    removal: LensRemoval | None = None
    """To the frames that the scene belongs to; None where they are the given ones."""


def reconstruct(
    frames: UInt8[np.ndarray, "f h w 3"], gray: UInt8[np.ndarray, "f h w"], config: SfmConfig, report: Report
) -> Reconstruction:
    """Cameras and points of a clip; raises AnnotationRefused where it cannot be reconstructed."""
    report("motion", 0.0)
    motion = measure_motion(gray)
    diagonal = float(np.hypot(*gray.shape[1:]))
    refusals.check_images(motion, diagonal)
    keyframes = select_keyframes(motion, diagonal, config.max_keyframes)

    first = _FirstScene(frames=frames, gray=gray, keyframes=keyframes, motion=motion, config=config, report=report)
    found, second = first.find()
    scene, removal, focal_sigma = polish(found, motion, config, lambda part: report("adjusting", part))
    refusals.check_camera(scene)
    refusals.check_posed(scene.posed, config.min_posed_fraction)
    refusals.check_parallax(scene, config.min_triangulation_angle_deg)
    matches = sum(pair.candidates for pair in found.pairs)
    return Reconstruction(
        scene=scene,
        motion=motion,
        keyframes=keyframes,
        match_inlier_fraction=sum(len(pair.indices) for pair in found.pairs) / max(matches, 1),
        focal_sigma=focal_sigma,
        drift=compare_sections(scene, config.threads),
        second_matcher=second,
        removal=removal,
    )


@dataclass(frozen=True, kw_only=True)
class _Found:
    """All frames posed, from matches alone."""

    scene: SparseScene
    pairs: list[PairMatches]
    gray: UInt8[np.ndarray, "f h w"]
    """The frames that the scene belongs to."""
    removal: LensRemoval | None
    """Where those came from, if they are not the given ones."""


@dataclass(frozen=True, kw_only=True)
class _FirstScene:
    """Matching and mapping of one clip: by the first matcher, and before a refusal for its matches by the second."""

    frames: UInt8[np.ndarray, "f h w 3"]
    gray: UInt8[np.ndarray, "f h w"]
    keyframes: list[int]
    motion: Motion
    config: SfmConfig
    report: Report

    def find(self) -> tuple[_Found, bool]:
        """The scene, and whether the matches are the second matcher's; raises AnnotationRefused."""
        try:
            return self.by(XFEAT), False
        except AnnotationRefused as refusal:
            if refusal.code not in refusals.OF_MATCHES:
                raise
            try:
                ready = second_matcher_is_ready(self.config.second_matcher)
            except WheelFileMissing as missing:
                raise refusals.without_second_matcher(refusal, str(missing)) from refusal
            if not ready:
                raise refusals.without_second_matcher(refusal) from refusal
            try:
                return self.by(ALIKED), True
            except AnnotationRefused as again:
                raise refusals.by_both_matchers(refusal, again) from refusal

    def by(self, matcher: Matcher) -> _Found:
        """The scene by one matcher; raises AnnotationRefused.

        Matches tell strong distortion, crops and zooms best. Later less is left to tell them by: positions are refined
        near to where the cameras predict them, and what does not fit is dropped.
        """
        config, report = self.config, self.report
        features = map_parallel(
            lambda index: matcher.extract(self.frames[index], config.max_keypoints),
            self.keyframes,
            config.threads,
            lambda part: report("features", part),
        )
        pairs = match_keyframes(
            features,
            matcher.pairs(features, config.pairs_per_keyframe),
            matcher.match,
            seed=config.seed,
            threads=config.threads,
            nearest_first=matcher.nearest_first,
            on_done=lambda part: report("matching", part),
        )
        refusals.check_matches(pairs, len(self.keyframes))
        refusals.check_flat(pairs)

        report("mapping", 0.0)
        scene = _map(features, pairs, self.keyframes, self.motion, config)
        refusals.check_parallax(scene, config.min_triangulation_angle_deg)
        report("adjusting", 0.0)
        fit, zoom = fit_camera(scene, config.threads, MATCHES)
        scene, removal = remove_lens(fit.scene, None)
        if abs(scene.radial) < MIN_REMOVED:  # fitted to the refined positions later
            scene = replace(scene, radial=0.0)
        ways = candidates(scene, config.threads)
        zooms = [zoom, *(fit_zoom(way, config.threads, MATCHES) for way in ways[1:])]
        refusals.check_zoom(min(zooms, key=abs))
        refusals.check_lens(scene)
        gray = self.gray if removal is None else removal.frames(self.gray, config.threads)
        scene = _likelier(ways, gray, config) if len(ways) > 1 else ways[0]
        scene = pose_remaining_frames(scene, gray, config.seed)
        refusals.check_posed(scene.posed, config.min_posed_fraction)
        return _Found(scene=scene, pairs=pairs, gray=gray, removal=removal)


def polish(
    found: _Found, motion: Motion, config: SfmConfig, report: Callable[[float], None]
) -> tuple[SparseScene, LensRemoval | None, float]:
    """Sub-pixel positions, then a joint adjustment, with lens and shutter where the footage shows them.

    Returns the scene, the way to the frames that it belongs to, and the standard deviation of the logarithm of the
    focal length. Raises AnnotationRefused for a zoom.

    The order matters: the shutter is fitted with an ideal lens, as a lens would take up part of what the shutter does.
    """
    image = torch.from_numpy(found.gray).float() / 255
    threads = config.threads
    scene = _settle(spread_points(drop_outliers(found.scene, max_error_px=6.0), config.refine_points), threads)
    for turn in range(config.refine_rounds):
        report(turn / config.refine_rounds)
        scene = _refine(
            scene, image, max_shift_px=8.0 if turn == 0 else 4.0, max_points=config.refine_points, threads=threads
        )
        if _is_continuous(motion):
            scene = fit_shutter(scene, threads)
    fit, zoom = fit_camera(adjust(scene, loss_px=LOSS_PX, threads=threads), threads, REFINED)
    refusals.check_zoom(zoom)
    scene, focal_sigma = settle_focal(fit.scene, threads, lens_spread=fit.focal_spread)
    return *remove_lens(scene, found.removal), focal_sigma


def _likelier(ways: list[SparseScene], gray: UInt8[np.ndarray, "f h w"], config: SfmConfig) -> SparseScene:
    """The one of a scene and its twin that one refinement of some points in the key frames speaks for."""
    image = torch.from_numpy(gray).float() / 255
    threads = config.threads
    tried = [
        _refine(
            _settle(spread_points(way, 2 * TRIAL_POINTS), threads),
            image,
            max_shift_px=8.0,
            max_points=TRIAL_POINTS,
            threads=threads,
        )
        for way in ways
    ]
    chosen = likeliest(tried)
    return next(way for way, trial in zip(ways, tried, strict=True) if trial is chosen)


def _settle(scene: SparseScene, threads: int) -> SparseScene:
    return adjust(drop_outliers(scene, max_error_px=6.0), loss_px=1.0, max_iterations=15, threads=threads)


def _refine(
    scene: SparseScene, image: Float[Tensor, "f h w"], *, max_shift_px: float, max_points: int, threads: int
) -> SparseScene:
    """Positions below one pixel, an adjustment to them, and without what does not fit then."""
    scene = refine_observations(scene, image, max_shift_px=max_shift_px, max_points=max_points, threads=threads)
    scene = adjust(drop_outliers(scene, max_error_px=6.0), loss_px=2 * LOSS_PX, max_iterations=20, threads=threads)
    return drop_outliers(scene, max_error_px=2.5)


def _is_continuous(motion: Motion) -> bool:
    """Whether frames are close enough to interpolate the camera path."""
    return len(motion.step_px) >= 8 and float(np.mean(motion.survival > 0.5)) > 0.9


def _map(
    features: list[Features], pairs: list[PairMatches], keyframes: list[int], motion: Motion, config: SfmConfig
) -> SparseScene:
    """The best model of the key frames over a few starts (first pair, focal length).

    The focal length is fixed while the model grows and free at the end: a free one diverges in the first,
    weakest views. Two first pairs are always tried, as one may have fallen for a moving thing or for the other of the
    two motions that explain a plane; further focal lengths only when no start poses all key frames with a focal length
    that then stays near. The smallest residuals for the part of the frames that is posed win.
    """
    guess = guess_focal_px(features, pairs, config.seed)
    long_side = max(features[0].size)
    found: list[tuple[float, SparseScene]] = []
    verified: dict[float, Verified] = {}
    settled = False
    for turn, (factor, first) in enumerate(STARTS):
        if settled and turn >= MIN_STARTS:
            break
        start = guess * factor
        if factor not in verified:
            verified[factor] = verify(features, pairs, focal_px=start, seed=config.seed)
        model = grow(verified[factor], seed=config.seed, threads=config.threads, first=first)
        if model is None:
            continue
        scene = scene_from_model(model, keyframes, len(motion.corners))
        scene = adjust(drop_outliers(scene, max_error_px=6.0, min_views=2), loss_px=1.0, threads=config.threads)
        plausible = FOCAL_RANGE[0] * long_side < scene.focal_px < FOCAL_RANGE[1] * long_side
        if not plausible or not len(scene.obs_frame) or scene.posed.sum() < MIN_MAPPED * len(keyframes):
            continue
        found.append((robust_cost(scene) * len(keyframes) / float(scene.posed.sum()), scene))
        settled |= bool(scene.posed.sum() == len(keyframes) and abs(np.log(scene.focal_px / start)) < NEAR_GUESS)
    if not found:
        raise refusals.nothing_mapped(pairs, motion)
    return min(found, key=lambda item: item[0])[1]
