"""The Markdown tables of an evidence report: means over clips with 95 % bootstrap intervals over worlds."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fw_core.tables import markdown
from fw_train.evaluate.evaluation import Plain
from fw_train.evidence.levels import NOISE_LEVELS
from fw_train.evidence.scores import GEOMETRY, Scores, frame_ranges
from fw_train.metrics.statistics import Summary, summarize

JSON, PAGE = "evidence.json", "evidence.md"
_GEOMETRY_HEADINGS = ("AbsRel ↓", "delta < 1.25 ↑", "ATE ↓", "Chamfer ↓")
_ARM_COLUMNS = {
    "PSNR, dB ↑": "video/psnr",
    "SSIM ↑": "video/ssim",
    "progress along the path ↑": "video/progress",
    "camera rotation, deg ↓": "video/rotation",
    "camera direction, deg ↓": "video/direction",
    "3D consistency, true scene ↓": "video/photometric_ratio",
    "3D consistency, own geometry ↓": "own/consistency/photometric_ratio",
    "AbsRel ↓": "own/depth/abs_rel",
    "ATE ↓": "own/pose/ate",
    "Chamfer ↓": "own/points/chamfer",
}


@dataclass(frozen=True, kw_only=True)
class Result:
    """The scores of one clip of one model."""

    model: str
    """Name of the model."""
    run: int
    """Number of the training under this name, from 0."""
    clip: str
    """Clip id."""
    group: str
    """World that the clip shows."""
    scores: Scores
    """Scores by name; None = not defined."""


class Table:
    """Summaries of the results by model and score."""

    def __init__(self, results: Sequence[Result]) -> None:
        self._values: dict[tuple[str, str], dict[str, list[tuple[int, float]]]] = {}
        self._group: dict[str, str] = {}
        for result in results:
            self._group[result.clip] = result.group
            for name, value in result.scores.items():
                if value is not None:
                    of_clip = self._values.setdefault((result.model, name), {}).setdefault(result.clip, [])
                    of_clip.append((result.run, value))

    def names(self, model: str) -> list[str]:
        """Names of a model's scores."""
        return [score for one, score in self._values if one == model]

    def by_clip(self, model: str, score: str) -> dict[str, float]:
        """Mean over noise seeds and trainings, per clip."""
        return {
            clip: sum(value for _, value in found) / len(found)
            for clip, found in self._values.get((model, score), {}).items()
        }

    def summary(self, model: str, score: str) -> Summary | None:
        """Mean over clips with its interval; None if no clip has this score."""
        return self._summarized(self.by_clip(model, score))

    def difference(self, model: str, first: str, score: str) -> Summary | None:
        """Difference of `model` from `first`, clip by clip; None if they share no clip."""
        mine, theirs = self.by_clip(model, score), self.by_clip(first, score)
        return self._summarized({clip: mine[clip] - theirs[clip] for clip in mine if clip in theirs})

    def of_runs(self, model: str, score: str) -> list[float]:
        """Mean over clips of each training under a name."""
        runs: dict[int, list[float]] = {}
        for found in self._values.get((model, score), {}).values():
            for run, value in found:
                runs.setdefault(run, []).append(value)
        return [sum(values) / len(values) for _, values in sorted(runs.items())]

    def _summarized(self, values: Mapping[str, float]) -> Summary | None:
        if not values:
            return None
        return summarize(list(values.values()), [self._group[clip] for clip in values])


def write_tables(
    out: Path, results: Sequence[Result], about: Mapping[str, Plain], *, arms: Sequence[str], frames: int
) -> Path:
    """Write evidence.json and evidence.md; returns the path of evidence.md.

    Args:
        out: folder to write to.
        results: measured clips of `reference`, `model`, `base` and the arms.
        about: settings to list above the tables.
        arms: names of the ablations in order; the first is the baseline.
        frames: frames per clip.
    """
    table = Table(results)
    models = list(dict.fromkeys(result.model for result in results))
    summaries = {m: {s: found.model_dump() for s in table.names(m) if (found := table.summary(m, s))} for m in models}
    runs = {arm: {score: table.of_runs(arm, score) for score in table.names(arm)} for arm in arms}
    content = {"about": dict(about), "summary": summaries, "means_of_trainings": runs}
    (out / JSON).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    parts = [_about(about), _autoencoder(table), _by_distance(table, frames, "psnr", "PSNR, dB ↑")]
    parts += [_by_distance(table, frames, "ssim", "SSIM ↑"), _camera(table), _geometry(table), _consistency(table)]
    if arms:
        parts += [_arms(table, arms), _differences(table, arms)]
    (out / PAGE).write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")
    return out / PAGE


def cell(found: Summary | None, digits: int = 3) -> str:
    """`mean [low, high]`; a dash for None."""
    if found is None:
        return "-"
    low_high = found.mean_interval
    mean = f"{found.mean:#.{digits}g}".rstrip(".")
    return mean if low_high is None else f"{mean} [{low_high[0]:.{digits}g}, {low_high[1]:.{digits}g}]"


def _titled(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], note: str = "") -> str:
    """A titled table; empty if no row has a number."""
    rows = [row for row in rows if any(text != "-" for text in row[1:-1])]
    if not rows:
        return ""
    table = markdown(headings, rows, align="l" + "r" * (len(headings) - 1))
    return f"**{title}**\n\n{table}" + (f"\n\n{note}" if note else "")


def _row(table: Table, label: str, model: str, scores: Sequence[str], digits: int = 3) -> list[str]:
    found = [table.summary(model, score) for score in scores]
    count = max((one.count for one in found if one), default=0)
    return [label, *(cell(one, digits) for one in found), str(count)]


def _about(about: Mapping[str, Plain]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in about.items())


def _autoencoder(table: Table) -> str:
    rows = [
        _row(table, "autoencoder", "reference", ["autoencoder/psnr_all"], 4),
        _row(table, "fixed block DCT, same latent size", "reference", ["block_dct/psnr_all"], 4),
    ]
    return _titled("Autoencoder: the true video and back, all frames", ["", "PSNR, dB ↑", "clips"], rows)


def _by_distance(table: Table, frames: int, measure: str, heading: str) -> str:
    ranges = [f"{first}-{last}" for first, last in frame_ranges(frames)]
    sources: list[tuple[str, str, str]] = [
        ("model", "model", "video"),
        ("base, no camera control", "base", "video"),
        ("first frame repeated", "reference", "still"),
        ("first frame warped with true depth", "reference", "warp"),
        ("autoencoder of the true video (ceiling)", "reference", "autoencoder"),
    ]
    rows = [
        _row(table, label, model, [f"{kind}/{measure}@{each}" for each in ranges] + [f"{kind}/{measure}"], 4)
        for label, model, kind in sources
    ]
    headings = ["", *(f"frames {each}" for each in ranges), f"1-{frames - 1}", "clips"]
    note = (
        "The warp splats every pixel of the first frame by its true depth (z-buffer) and fills holes from the nearest "
        "pixel; the model sees neither that depth nor later frames."
    )
    return _titled(f"Video against the rendered truth along the same path: {heading}", headings, rows, note)


def _camera(table: Table) -> str:
    sources = [
        ("model", "model", "video"),
        ("base, no camera control", "base", "video"),
        ("true video through the autoencoder", "reference", "autoencoder"),
        ("first frame repeated", "reference", "still"),
        ("true video (error of the estimator itself)", "reference", "truth"),
    ]
    measures = ("progress", "rotation", "direction", "cameras_found")
    rows = [_row(table, label, model, [f"{kind}/{name}" for name in measures]) for label, model, kind in sources]
    rows.append(
        [
            "model, by its own camera head",
            "-",
            cell(table.summary("model", "own/follow/rotation")),
            cell(table.summary("model", "own/follow/direction")),
            "-",
            str(len(table.by_clip("model", "own/follow/rotation"))),
        ]
    )
    headings = ["path found in", "progress ↑", "rotation, deg ↓", "direction, deg ↓", "frames with a camera", "clips"]
    note = (
        "Progress: the frame of the path whose warp of the first frame (true depth) fits best, as a share of the frame "
        "asked for; 1 is all the way. Rotation and direction: the path is found by optical flow from the first frame "
        "and PnP on its true depth; a frame without a camera keeps the one before."
    )
    return _titled("Camera following: requested against recovered path", headings, rows, note)


def _geometry(table: Table) -> str:
    rows = [
        _row(table, f"real latents, noise {sigma:g}", "model", [f"level/{name}@{sigma:g}" for name in GEOMETRY])
        for sigma in NOISE_LEVELS
    ]
    rows.append(_row(table, "generated, last step", "model", [f"own/{name}" for name in GEOMETRY]))
    note = (
        "Depth after one scale per clip; ATE and Chamfer after Sim(3) of the cameras, in mean distances of the first "
        "frame. Generated geometry is compared with the truth that the generated video only resembles."
    )
    return _titled("Geometry of one pass", ["", *_GEOMETRY_HEADINGS, "clips"], rows, note)


def _consistency(table: Table) -> str:
    sources = [
        ("model, own depth and cameras", "model", "own/consistency"),
        ("model, true depth and requested cameras", "model", "video"),
        ("base, true depth and requested cameras", "base", "video"),
        ("first frame repeated, true depth and cameras", "reference", "still"),
        ("autoencoder of the true video, true depth and cameras", "reference", "autoencoder"),
        ("true video, true depth and cameras", "reference", "truth"),
    ]
    rows = [
        _row(table, label, model, [f"{kind}/photometric", f"{kind}/photometric_ratio"])
        for label, model, kind in sources
    ]
    note = (
        "Mean color difference (0 to 1) of frames four apart after one is warped into the other, and the same over "
        "the difference without a warp: below 1 the geometry explains the change."
    )
    return _titled("3D consistency by reprojection", ["", "color ↓", "ratio ↓", "clips"], rows, note)


def _arms(table: Table, arms: Sequence[str]) -> str:
    rows = []
    for arm in arms:
        texts = []
        trainings = 1
        for score in _ARM_COLUMNS.values():
            means = table.of_runs(arm, score)
            trainings = max(trainings, len(means))
            spread = f"; {min(means):.3g} to {max(means):.3g}" if len(means) > 1 else ""
            texts.append(cell(table.summary(arm, score)) + spread)
        rows.append([arm, str(trainings), *texts, str(len(table.by_clip(arm, "video/psnr")))])
    note = "Mean [95 % interval over clips; lowest to highest mean of the trainings, where there are several]."
    return _titled("Ablation", ["", "trainings", *_ARM_COLUMNS, "clips"], rows, note)


def _differences(table: Table, arms: Sequence[str]) -> str:
    first, *others = arms
    rows = []
    for arm in others:
        found = [table.difference(arm, first, score) for score in _ARM_COLUMNS.values()]
        rows.append([arm, *(cell(one) for one in found), str(max((one.count for one in found if one), default=0))])
    note = "An interval that contains 0 shows no difference. It does not include the spread over trainings."
    return _titled(f"Ablation, clip by clip: difference from {first}", ["", *_ARM_COLUMNS, "clips"], rows, note)
