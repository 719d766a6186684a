"""Refusals of the backend: every reason in one place, with the finding and the fix.

Axis legend: f frames.
"""

import numpy as np
from jaxtyping import Bool, Float32

from fw_data.annotators.base import AnnotationRefused
from fw_data.annotators.sfm.calibration import FOCAL_RANGE, MAX_RADIAL
from fw_data.annotators.sfm.config import MIN_SIDE_PX
from fw_data.annotators.sfm.matching.keyframes import Motion
from fw_data.annotators.sfm.matching.matching import PairMatches
from fw_data.annotators.sfm.scene import SparseScene
from fw_data.annotators.sfm.sections import Drift
from fw_data.annotators.sfm.zoom import MAX_ZOOM

OF_MATCHES = ("too-few-matches", "too-little-overlap", "frames-not-posed")
"""Codes of refusals that more matches may avoid."""
MIN_FRAMES = 3
MIN_CORNERS = 30
MAX_FLAT = 0.88
MIN_FOLLOWED = 0.2
MIN_MOTION = 0.004
"""As a fraction of the image diagonal."""
SURE = 0.3
MIN_SURE_WITH_RIGHT_CAMERAS = 0.05
MAX_PATH_DRIFT = 0.008
"""Cameras of street and kitchen clips drift by up to 0.0053; with a focal length that is 25 % off or more, by 0.011 or
more, unless the camera drives straight ahead, where any focal length gives the right path."""
MIN_SURE = 0.2
"""Share of the pixels whose depth is at least SURE. Clips that were turned away by it had 0.05 to 0.15, clips with
right cameras 0.44 and more; wrong cameras can have much too (the mirror pose of a nearly flat scene: 0.51)."""


def check_shape(frames: int, height: int, width: int) -> None:
    """Refuse clips that are too short or too small to say anything about."""
    if frames < MIN_FRAMES:
        raise AnnotationRefused(
            "too-few-frames",
            f"The clip has {frames} frame(s); geometry needs at least {MIN_FRAMES} views of the scene.",
            "Give a longer clip.",
        )
    if min(height, width) < MIN_SIDE_PX:
        raise AnnotationRefused(
            "too-small",
            f"The frames are {width}x{height} pixels; both sides need at least {MIN_SIDE_PX}.",
            "Give a larger video.",
        )


def check_images(motion: Motion, diagonal_px: float) -> None:
    """Refuse black, plain or still footage."""
    corners = float(np.median(motion.corners))
    if corners < MIN_CORNERS:
        raise AnnotationRefused(
            "no-texture",
            f"Half of the frames show fewer than {MIN_CORNERS} points that can be followed (median {corners:.0f}): "
            "the image is black, plain or very blurred.",
            "Use footage with visible detail.",
        )
    if motion.span_px < MIN_MOTION * diagonal_px and float(np.median(motion.survival)) > 0.5:
        raise AnnotationRefused(
            "no-motion",
            f"The image moves by {motion.span_px:.1f} pixels over the whole clip: the camera does not move, so depth "
            "cannot be seen.",
            "Use footage of a moving camera.",
        )


def check_matches(pairs: list[PairMatches], keyframes: int) -> None:
    """Refuse clips whose frames do not show the same things."""
    seen = {index for pair in pairs for index in (pair.first, pair.second)}
    if len(pairs) < 1 or len(seen) < max(2, keyframes // 2):
        raise AnnotationRefused(
            "too-few-matches",
            f"Only {len(seen)} of {keyframes} key frames show the same rigid scene as another one. The clip may hold a "
            "cut, noise, strong blur, or mostly moving things.",
            "Split it at cuts, or use a steadier shot.",
        )


def without_second_matcher(first: AnnotationRefused, missing: str = "") -> AnnotationRefused:
    """The refusal of a clip that the second matcher might have saved; `missing` says why it could not be loaded."""
    hint = f"{first.hint} Or let ALIKED and LightGlue try (--second-matcher aliked --retry-failed)."
    hint += f" They could not be loaded here: {missing}" if missing else ""
    return AnnotationRefused(first.code, str(first), hint)


def by_both_matchers(first: AnnotationRefused, second: AnnotationRefused) -> AnnotationRefused:
    """The refusal of a clip that neither matcher can reconstruct."""
    return AnnotationRefused(
        first.code, f"{first} The second matcher, ALIKED with LightGlue, was refused too: {second}", first.hint
    )


def check_flat(pairs: list[PairMatches]) -> None:
    """Refuse clips whose frames follow one flat transformation, as far as matches without parallax ever do."""
    flat = float(np.median([pair.homography_fraction for pair in pairs]))
    if flat > MAX_FLAT:
        raise no_parallax(f"one flat transformation explains {100 * flat:.0f} % of the matches between frames")


def nothing_mapped(pairs: list[PairMatches], motion: Motion) -> AnnotationRefused:
    """The refusal for matches that no reconstruction grows from."""
    check_flat(pairs)
    followed = float(np.median(motion.survival))
    if followed < MIN_FOLLOWED:
        return AnnotationRefused(
            "too-little-overlap",
            f"From one frame to the next only {100 * followed:.0f} % of the image can be followed: the views are too "
            "far apart to be joined.",
            "Use video, or images of one place taken closer together.",
        )
    return AnnotationRefused(
        "not-rigid",
        "Matches were found, but no camera path explains them together: large parts of the scene may move.",
        "Use footage of a mostly static scene.",
    )


def no_parallax(seen: str) -> AnnotationRefused:
    """The refusal of footage in which the camera does not change its place."""
    return AnnotationRefused(
        "no-parallax",
        f"Depth cannot be seen: {seen}. The camera only turns or zooms, or everything in view is one flat surface.",
        "Use footage in which the camera travels past things at different distances.",
    )


def check_parallax(scene: SparseScene, min_angle_deg: float) -> None:
    """Refuse scenes whose points are all seen from practically one place."""
    angle = scene.triangulation_angle_deg()
    median = float(np.median(angle)) if len(angle) else 0.0
    if median < min_angle_deg:
        raise no_parallax(f"half of the scene points are seen under less than {median:.2f} degrees of parallax")


def check_camera(scene: SparseScene) -> None:
    """Refuse cameras that one plausible pinhole camera does not describe."""
    long_sides = scene.focal_px / max(scene.width, scene.height)
    if not FOCAL_RANGE[0] < long_sides < FOCAL_RANGE[1]:
        raise AnnotationRefused(
            "focal-implausible",
            f"The focal length that fits best is {long_sides:.2g} times the long side of the image, outside of "
            f"{FOCAL_RANGE[0]} to {FOCAL_RANGE[1]}: the cameras are probably wrong.",
            "Use footage in which the camera moves sideways past things at different distances.",
        )
    check_lens(scene)


def check_lens(scene: SparseScene) -> None:
    """Refuse lenses that are too strong, or not known well enough, to be taken out of the frames."""
    if abs(scene.radial) >= MAX_RADIAL:
        raise AnnotationRefused(
            "lens-distortion",
            f"The lens is strongly distorted (first radial coefficient about {scene.radial:.2f}).",
            "Undistort the video first, for instance with ffmpeg's lenscorrection filter.",
        )


def check_zoom(zoom: float) -> None:
    """Refuse a focal length that changes within the clip."""
    if abs(zoom) > MAX_ZOOM:
        raise AnnotationRefused(
            "zoom",
            f"The focal length changes by about {np.exp(abs(zoom)):.2f} times within the clip: the camera zooms.",
            "Cut the clip where the zoom starts and ends.",
        )


def check_depth(confidence: Float32[np.ndarray, "f h w"], drift: Drift | None) -> None:
    """Refuse clips whose frames do not agree about depth, unless their sections agree about the cameras.

    Where a camera drives straight ahead, few pixels have parallax, so few are confirmed with right cameras, too.
    """
    share = float((confidence > SURE).mean())
    right = drift is not None and drift.path < MAX_PATH_DRIFT
    if share < (MIN_SURE_WITH_RIGHT_CAMERAS if right else MIN_SURE):
        raise AnnotationRefused(
            "depth-not-confirmed",
            f"Only {100 * share:.0f} % of the pixels have a depth that other frames confirm: "
            + (
                "too little of the image shows parallax."
                if right
                else "the cameras that were found are probably wrong."
            )
            + " The clip may mostly show moving things, or too little detail.",
            "Use a steadier shot of a static scene.",
        )


def check_posed(posed: Bool[np.ndarray, " f"], min_fraction: float) -> None:
    """Refuse clips in which too many frames could not be posed."""
    count, total = int(posed.sum()), len(posed)
    if count < min_fraction * total:
        missing = np.flatnonzero(~posed)
        raise AnnotationRefused(
            "frames-not-posed",
            f"{count} of {total} frames could be posed; the first one missing is frame {missing[0]} (the last one "
            f"{missing[-1]}). The clip may hold a cut, strong blur or a stretch without detail there.",
            "Split the clip there.",
        )
