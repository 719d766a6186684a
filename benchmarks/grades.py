"""The grade bench: compare the scores and grades of `sfm` with the true errors of recorded, rendered and edited clips.

    python -m benchmarks.grades --out bench                          # 52 rendered clips of 13 frames
    python -m benchmarks.grades --out bench --seven-scenes FOLDER    # and those of RedKitchen

The edits: lens distortion, an off-center crop, a zoom within the shot, a large textured patch that slides over the
image. Only the cameras are computed. The error of a clip is that of its focal length over 8 %, or the ATE over 5 % of
the path, whichever is larger. It renders the clips with exact truth into worlds/ (five minutes, once). Writes grades.md
and grades.json.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float64, UInt8
from scipy.stats import rankdata

from benchmarks import recordings
from benchmarks.recordings import Recording
from fw_data.annotators.base import AnnotationRefused
from fw_data.annotators.sfm import SfmConfig
from fw_data.annotators.sfm.reconstruction import Reconstruction, reconstruct
from fw_data.quality.grade import LIMITS, grade
from fw_geometry.lenses import Lens
from fw_geometry.metrics import ate

FRAMES = 13
FOCAL_LIMIT, ATE_LIMIT = 0.08, 0.05
SHORTEST_PATH_M = 0.4
"""On shorter paths of RedKitchen, most of the ATE is the error of the true poses: only the focal length counts."""
RECORDED = [(start, step) for step in (3, 6) for start in range(0, 1000, 50) if start + FRAMES * step <= 1000]
RECORDED += [(384, 6), *((start, 12) for start in (0, 200, 300, 500, 700))]
"""First frame and step of the clips of RedKitchen."""
EDITED = ((300, 6), (384, 6), (300, 12), (150, 6), (650, 6))
"""Those of them that are also edited."""
RENDERED = ((0, 1), (28, 1), (0, 3))
"""First frame and step of the clips of each rendered world; the last one is also edited."""
SCORES: tuple[str, ...] = ("focal_sigma", "focal_drift", "path_drift")


@dataclass(frozen=True, kw_only=True)
class Frames:
    """The frames of a clip and the focal length of each, in pixels."""

    rgb: UInt8[np.ndarray, "f h w 3"]
    focal_px: Float64[np.ndarray, " f"]


@dataclass(frozen=True, kw_only=True)
class ClipResult:
    """Scores, grade and true errors of a clip."""

    clip: str
    grade: str
    """By the scores of the cameras alone; "refused" where there are none."""
    reason: str = ""
    error: float | None = None
    """Relative to its limit; above 1, grades A to C are wrong. None for refused clips whose error is unknown."""
    focal_error: float | None = None
    ate: float | None = None
    """As a fraction of the path length."""
    scores: dict[str, float] | None = None

    @property
    def worst_score(self) -> float:
        """The largest score over its limit for C; infinity for a refused clip."""
        if self.scores is None:
            return np.inf
        return max(value / (LIMITS["C"][name][1] or 1.0) for name, value in self.scores.items())


def distorted(frames: Frames, *, radial: tuple[float, ...]) -> Frames:
    """The frames as a lens with these coefficients sees them: the widest view without black borders."""
    height, width = frames.rgb.shape[1:3]
    pixels = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), axis=-1)
    border = np.concatenate([pixels[[0, -1]].reshape(-1, 2), pixels[:, [0, -1]].reshape(-1, 2)])

    def places(focal_px: float, pixels: np.ndarray) -> np.ndarray:
        rays = Lens(fx=focal_px, fy=focal_px, cx=width / 2, cy=height / 2, radial=radial).unproject(pixels)
        return rays[:, :2] / rays[:, 2:] * frames.focal_px[0] + [width / 2, height / 2]

    least, most = frames.focal_px[0] / 2, frames.focal_px[0] * 2
    for _ in range(30):
        middle = (least + most) / 2
        found = places(middle, border)
        inside = (found >= 0).all() and (found <= [width, height]).all()  # not where it is NaN
        least, most = (least, middle) if inside else (middle, most)
    columns, rows = (places(most, pixels.reshape(-1, 2)) - 0.5).T.reshape(2, height, width).astype(np.float32)
    bent = [cv2.remap(f, columns, rows, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE) for f in frames.rgb]
    return Frames(rgb=np.stack(bent), focal_px=np.full(len(bent), most))


def cropped(frames: Frames, *, share: float) -> Frames:
    """The upper left part of the image."""
    height, width = (round(side * share) for side in frames.rgb.shape[1:3])
    return replace(frames, rgb=np.ascontiguousarray(frames.rgb[:, :height, :width]))


def zoomed(frames: Frames, *, to: float) -> Frames:
    """A zoom from 1 to this factor, at a constant relative speed."""
    height, width = frames.rgb.shape[1:3]
    factors = to ** np.linspace(0, 1, len(frames.rgb))
    moves = [np.array([[z, 0, (width - 1) / 2 * (1 - z)], [0, z, (height - 1) / 2 * (1 - z)]]) for z in factors]
    scaled = [
        cv2.warpAffine(f, m, (width, height), flags=cv2.INTER_CUBIC) for f, m in zip(frames.rgb, moves, strict=True)
    ]
    return Frames(rgb=np.stack(scaled), focal_px=frames.focal_px * factors)


def patched(frames: Frames, *, speed_px: float) -> Frames:
    """A textured patch of 300 x 300 pixels that slides over the image."""
    rgb = frames.rgb.copy()
    coarse = np.random.default_rng(0).integers(0, 255, (60, 60, 3), np.uint8)
    texture = cv2.resize(coarse, (300, 300), interpolation=cv2.INTER_CUBIC)
    for index, frame in enumerate(rgb):
        left, top = round(40 + speed_px * index), round(60 + 0.4 * speed_px * index)
        place = frame[top : top + 300, left : left + 300]
        place[:] = texture[: place.shape[0], : place.shape[1]]
    return replace(frames, rgb=rgb)


EDITS: dict[str, Callable[[Frames], Frames]] = {
    "unedited": lambda frames: frames,
    "barrel distortion": partial(distorted, radial=(-0.35, 0.12)),
    "k1 -0.12": partial(distorted, radial=(-0.12,)),
    "k1 0.2": partial(distorted, radial=(0.2,)),
    "upper left 70 %": partial(cropped, share=0.7),
    "upper left 85 %": partial(cropped, share=0.85),
    "zoom to 1.15": partial(zoomed, to=1.15),
    "zoom to 1.3": partial(zoomed, to=1.3),
    "zoom to 1.6": partial(zoomed, to=1.6),
    "patch, 8 px a frame": partial(patched, speed_px=8.0),
    "patch, 20 px a frame": partial(patched, speed_px=20.0),
}


@dataclass(frozen=True, kw_only=True)
class Excerpt:
    """Some frames of a recording."""

    name: str
    frames: Frames
    pose_c2w: Float64[np.ndarray, "f 4 4"]
    """True poses; meters."""
    exact: bool
    """Whether the true poses are exact."""
    edited: bool
    """Whether the edited versions are evaluated, too."""

    @property
    def path_m(self) -> float:
        """Length of the true path."""
        return float(np.linalg.norm(np.diff(self.pose_c2w[:, :3, 3], axis=0), axis=1).sum())


def excerpts(worlds: Path, seven_scenes: Path | None) -> Iterator[Excerpt]:
    """The clips to evaluate."""
    for world in recordings.rendered(worlds):
        name = world.name.partition(",")[0]
        for start, step in RENDERED:
            yield excerpt(name, world, start, step, exact=True, edited=(start, step) == RENDERED[-1])
    if seven_scenes:
        whole = recordings.seven_scenes(seven_scenes, 0, 1000, 1)
        for start, step in RECORDED:
            yield excerpt("RedKitchen", whole, start, step, exact=False, edited=(start, step) in EDITED)


def excerpt(name: str, recording: Recording, start: int, step: int, *, exact: bool, edited: bool) -> Excerpt:
    """FRAMES frames of a recording."""
    chosen = range(start, start + FRAMES * step, step)
    assert recording.pose_c2w is not None, "a recording with ground truth"
    assert recording.focal_px is not None, "a recording with ground truth"
    return Excerpt(
        name=f"{name} from {start}, step {step}",
        frames=Frames(rgb=recording.images(chosen), focal_px=np.full(FRAMES, recording.focal_px)),
        pose_c2w=recording.pose_c2w[list(chosen)],
        exact=exact,
        edited=edited,
    )


def evaluate(name: str, frames: Frames, clip: Excerpt) -> ClipResult:
    """Reconstruct the cameras of one clip and compare them with the truth."""
    gray = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames.rgb])
    least = float(np.ptp(np.log(frames.focal_px))) / 2  # of any single focal length
    try:
        found = reconstruct(frames.rgb, gray, SfmConfig(), lambda *_: None)
    except AnnotationRefused as refusal:
        return ClipResult(clip=name, grade="refused", reason=refusal.code, error=least / FOCAL_LIMIT if least else None)
    values = (found.focal_sigma, *((found.drift.focal, found.drift.path) if found.drift else ()))
    scores: dict[str, float] = dict(zip(SCORES, values, strict=False))
    focal_error = float(np.abs(np.log(focal_px(found) / frames.focal_px)).max())
    off = ate(np.linalg.inv(found.scene.pose_w2c), clip.pose_c2w).rmse / clip.path_m
    of_path = off / ATE_LIMIT if clip.exact or clip.path_m > SHORTEST_PATH_M else 0.0
    return ClipResult(
        clip=name,
        grade=grade(scores),
        error=max(focal_error / FOCAL_LIMIT, of_path),
        focal_error=focal_error,
        ate=off,
        scores=scores,
    )


def focal_px(found: Reconstruction) -> float:
    """Focal length at the center of the given frames, before lens removal."""
    scene, removal = found.scene, found.removal
    if removal is None:
        return scene.focal_px
    near = np.array([[scene.width / 2 + x, scene.height / 2] for x in (-40.0, 40.0)])
    left, right = removal.ideal(near)
    return scene.focal_px * 80.0 / float(right[0] - left[0])


def markdown(results: list[ClipResult]) -> str:
    """The table of the clips, then the rank correlation of scores and errors."""
    lines = [
        "| clip | focal error | ATE, of the path | focal_sigma | drifts | grade |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for one in results:
        if one.scores is None or one.focal_error is None or one.ate is None:
            lines.append(f"| {one.clip} | | | | | refused ({one.reason}) |")
            continue
        sigma, *drifts = one.scores.values()
        drift = ", ".join(f"{value:.3f}" for value in drifts)
        lines.append(f"| {one.clip} | {one.focal_error:.1%} | {one.ate:.1%} | {sigma:.4f} | {drift} | {one.grade} |")
    kept = [one for one in results if one.scores is not None]
    known = [one for one in results if one.error is not None]
    wrong = [one for one in kept if one.grade in LIMITS and (one.error or 0) > 1]
    counts = ", ".join(
        f"{letter} {sum(one.grade == letter for one in results)}" for letter in (*LIMITS, "D", "refused")
    )
    lines += [
        "",
        f"- clips: {len(results)} ({counts})",
        f"- mean focal error of the {len(kept)} kept clips: {np.mean([one.focal_error or 0.0 for one in kept]):.1%}",
        f"- rank correlation of score and error: {correlation(known):.2f} over {len(known)} clips, with the refused "
        f"ones whose error is known; {correlation(kept):.2f} over the kept ones",
        f"- over the limits of the error with A, B or C: {', '.join(one.clip for one in wrong) or 'none'}",
    ]
    return "\n".join(lines) + "\n"


def correlation(results: list[ClipResult]) -> float:
    """Spearman's rank correlation of `worst_score` and `error`."""
    ranks = (rankdata([one.worst_score for one in results]), rankdata([one.error or 0.0 for one in results]))
    return float(np.corrcoef(*ranks)[0, 1])


def main(arguments: list[str] | None = None) -> int:
    """Evaluate all clips, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench"), help="folder of the table")
    parser.add_argument("--seven-scenes", type=Path, help="RedKitchen seq-01 with all 1,000 frames")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    results: list[ClipResult] = []
    for clip in excerpts(options.out / "worlds", options.seven_scenes):
        for edit in EDITS if clip.edited else list(EDITS)[:1]:
            results.append(evaluate(f"{clip.name}, {edit}", EDITS[edit](clip.frames), clip))
            print(results[-1], flush=True)
            stored = json.dumps([asdict(one) for one in results], indent=1)
            (options.out / "grades.json").write_text(stored + "\n", encoding="utf-8")
    text = markdown(results)
    (options.out / "grades.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
