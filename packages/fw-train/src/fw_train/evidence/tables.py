"""The Markdown tables of an evidence report: means over clips with 95 % bootstrap intervals over worlds."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from fw_core.tables import markdown
from fw_train.evaluate.evaluation import Plain
from fw_train.evidence.levels import NOISE_LEVELS
from fw_train.evidence.scores import frame_ranges
from fw_train.evidence.summaries import DepthMaps, Maps, Result, Table
from fw_train.metrics.statistics import Summary

JSON, PAGE = "evidence.json", "evidence.md"
_GEOMETRY = {
    "AbsRel ↓": "depth/abs_rel",
    "delta < 1.25 ↑": "depth/delta1",
    "ATE ↓": "pose/ate",
    "Chamfer ↓": "points/chamfer",
}
_LOSSES = {f"noise {sigma:g} ↓": f"latent_error@{sigma:g}" for sigma in NOISE_LEVELS if sigma > 0}
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
    **{f"latent error, {heading}": score for heading, score in _LOSSES.items()},
}


def write_tables(
    out: Path,
    results: Sequence[Result],
    about: Mapping[str, Plain],
    *,
    arms: Sequence[str],
    frames: int,
    maps: Maps,
    few_steps: Sequence[int] = (),
) -> Path:
    """Write evidence.json and evidence.md; returns the path of evidence.md.

    Args:
        out: folder to write to.
        results: measured clips of `reference`, `model`, `base`, the arms and `model@STEPS`.
        about: settings to list above the tables.
        arms: names of the ablations in order; the first is the baseline.
        frames: frames per clip.
        maps: coarse log depth of the references and of the model.
        few_steps: rows of the table of steps.
    """
    table = Table(results)
    depth = DepthMaps(maps, {result.clip: result.group for result in results})
    models = list(dict.fromkeys(result.model for result in results))
    summaries = {m: {s: found.model_dump() for s in table.names(m) if (found := table.summary(m, s))} for m in models}
    runs = {arm: {score: table.of_runs(arm, score) for score in table.names(arm)} for arm in arms}
    over_worlds = {kind: found.model_dump() for kind in maps if (found := depth.correlation(kind))}
    content = {
        "about": dict(about),
        "summary": summaries,
        "means_of_trainings": runs,
        "depth_correlation": over_worlds,
    }
    (out / JSON).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    parts = [_about(about), _autoencoder(table), _by_distance(table, frames, "psnr", "PSNR, dB ↑")]
    parts += [_by_distance(table, frames, "ssim", "SSIM ↑"), _camera(table), _losses(table), _geometry(table, depth)]
    parts += [_consistency(table), _splats(table), _few_steps(table, frames, few_steps, int(about["steps"] or 0))]
    if arms:
        parts += [_arms(table, arms), _differences(table, arms)]
    (out / PAGE).write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")
    return out / PAGE


def cell(found: Summary | None, digits: int = 3) -> str:
    """`mean [low, high]`; a dash for None."""
    return "-" if found is None else cell_of(found.mean, found.mean_interval, digits)


def cell_of(value: float, low_high: tuple[float, float] | None, digits: int) -> str:
    """`value [low, high]`, without brackets if there is no interval."""
    text = f"{value:#.{digits}g}".rstrip(".")
    return text if low_high is None else f"{text} [{low_high[0]:.{digits}g}, {low_high[1]:.{digits}g}]"


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
        ("base", "base", "video"),
        ("first frame repeated", "reference", "still"),
        ("first frame warped with the model's own depth", "model", "own_warp"),
        ("first frame warped with true depth", "reference", "warp"),
        ("autoencoder of the true video (ceiling)", "reference", "autoencoder"),
    ]
    rows = [
        _row(table, label, model, [f"{kind}/{measure}@{each}" for each in ranges] + [f"{kind}/{measure}"], 4)
        for label, model, kind in sources
    ]
    headings = ["", *(f"frames {each}" for each in ranges), f"1-{frames - 1}", "clips"]
    note = (
        "Base is the video model before the joint training, without the geometry branch. A warp splats every pixel of "
        "the first frame by its depth (z-buffer) and fills holes from the nearest pixel; the model sees neither the "
        "true depth nor later frames."
    )
    return _titled(f"Video against the rendered truth along the same path: {heading}", headings, rows, note)


def _camera(table: Table) -> str:
    sources = [
        ("model", "model", "video"),
        ("base", "base", "video"),
        ("first frame warped with the model's own depth", "model", "own_warp"),
        ("first frame warped with true depth", "reference", "warp"),
        ("true video through the autoencoder", "reference", "autoencoder"),
        ("first frame repeated", "reference", "still"),
        ("true video (error of the estimator itself)", "reference", "truth"),
    ]
    rows = []
    for label, model, kind in sources:
        found = {name: table.summary(model, f"{kind}/{name}") for name in ("rotation", "direction", "cameras_found")}
        rows.append(
            [
                label,
                cell(table.summary(model, f"{kind}/progress")),
                *_mean_and_median(found["rotation"], found["direction"]),
                cell(found["cameras_found"]),
                str(max((one.count for one in found.values() if one), default=0)),
            ]
        )
    heads = [("model, by its own camera head", "own", ""), ("its camera head on the true video", "level", "@0")]
    for label, kind, level in heads:
        rotation, direction = (
            table.summary("model", f"{kind}/follow/{name}{level}") for name in ("rotation", "direction")
        )
        count = str(max((one.count for one in (rotation, direction) if one), default=0))
        rows.append([label, "-", *_mean_and_median(rotation, direction), "-", count])
    headings = ["path found in", "progress ↑", "rotation, deg, mean ↓", "rotation, median ↓"]
    headings += ["direction, deg, mean ↓", "direction, median ↓", "frames with a camera", "clips"]
    note = (
        "Progress: the frame of the path whose warp of the first frame (true depth) fits best, as a share of the frame "
        "asked for; 1 is all the way. Rotation and direction: the path is found by optical flow from the first frame "
        "and PnP on its true depth; a frame without a camera keeps the one before. Paths that only turn have no "
        "direction."
    )
    return _titled("Camera following: requested against recovered path", headings, rows, note)


def _mean_and_median(*found: Summary | None) -> list[str]:
    return [
        text
        for one in found
        for text in (cell(one), "-" if one is None else cell_of(one.median, one.median_interval, 3))
    ]


def _losses(table: Table) -> str:
    rows = [
        _row(table, label, name, list(_LOSSES.values()), 4) for label, name in (("model", "model"), ("base", "base"))
    ]
    still = table.summary("reference", "still/latent_error")
    rows.append(["first frame repeated", *[cell(still, 4)] * len(_LOSSES), "-" if still is None else str(still.count)])
    note = (
        "Mean squared error of the clean latents (unit variance) that one pass predicts from the true ones at this "
        "noise, first latent frame excluded. The noise is fixed for each clip, so the errors are deterministic."
    )
    return _titled("Denoising error on real latents", ["", *_LOSSES, "clips"], rows, note)


def _geometry(table: Table, depth: DepthMaps) -> str:
    sources = [(f"real latents, noise {sigma:g}", "level", f"@{sigma:g}") for sigma in NOISE_LEVELS]
    sources.append(("generated, last step", "own", ""))
    rows = []
    for label, kind, level in sources:
        scores = [f"{kind}/{name}{level}" for name in _GEOMETRY.values()]
        *cells, count = _row(table, label, "model", scores)
        direction = table.summary("model", f"{kind}/follow/direction{level}")
        cells += [cell(depth.correlation("generated" if kind == "own" else f"level{level}"))]
        cells += ["-" if direction is None else cell_of(direction.median, direction.median_interval, 3)]
        rows.append([*cells, count])
    average = depth.average_scene()
    rows.append(
        ["average scene for every clip", cell(average), *["-"] * 5, "-" if average is None else str(average.count)]
    )
    note = (
        "Depth after one scale per clip; ATE and Chamfer after Sim(3) of the cameras, in mean distances of the first "
        "frame. Correlation: of log depth with its truth, both without their mean over the worlds. Generated geometry "
        "is compared with the truth that the generated video only resembles."
    )
    headings = ["", *_GEOMETRY, "correlation ↑", "own camera, direction, deg, median ↓", "clips"]
    return _titled("Geometry of one pass", headings, rows, note)


def _splats(table: Table) -> str:
    sources = [
        ("generated world, from its own geometry", "own"),
        ("generated world, from random points", "random"),
        ("true video, depth and cameras", "truth"),
    ]
    rows = [
        _row(table, label, "splats", [f"{kind}/{name}" for name in ("psnr", "ssim", "fitted_psnr")], 4)
        for label, kind in sources
    ]
    note = (
        "3D Gaussians are fitted to the frames with the model's own cameras; the middle frame of every eight is held "
        "out. The number of Gaussians is fixed."
    )
    headings = ["", "PSNR of held-out frames, dB ↑", "SSIM ↑", "PSNR of fitted frames, dB", "clips"]
    return _titled("Gaussian splats", headings, rows, note)


def _few_steps(table: Table, frames: int, few_steps: Sequence[int], main: int) -> str:
    last = frame_ranges(frames)[-1]
    columns = {
        f"PSNR, dB, 1-{frames - 1} ↑": "video/psnr",
        f"frames {last[0]}-{last[1]} ↑": f"video/psnr@{last[0]}-{last[1]}",
        "progress ↑": "video/progress",
        "direction, deg ↓": "video/direction",
        "3D consistency, own geometry ↓": "own/consistency/photometric_ratio",
        "AbsRel ↓": "own/depth/abs_rel",
    }
    names = {steps: "model" if steps == main else f"model@{steps}" for steps in few_steps}
    shared = set.intersection(*(set(table.by_clip(name, "video/psnr")) for name in names.values())) if names else set()
    few = table.restricted(shared)
    rows = [_row(few, str(steps), name, list(columns.values()), 4) for steps, name in names.items()]
    note = "The same clips in every row, from the same noise. Time is proportional to the steps."
    return _titled("Number of denoising steps", ["steps", *columns, "clips"], rows, note)


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
    note = "An interval that contains 0 shows no difference. With several trainings it draws trainings and worlds."
    return _titled(f"Ablation, clip by clip: difference from {first}", ["", *_ARM_COLUMNS, "clips"], rows, note)
