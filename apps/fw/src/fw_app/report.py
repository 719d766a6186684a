"""Report of the demo: one self-contained HTML file with images and curves.

Every figure is computed here from the files of the demo folder.
"""

import html
import json
from pathlib import Path

import numpy as np
from PIL import Image

from fw_app.cloud_image import render_cloud
from fw_app.demo_data import held_out_clip
from fw_model.checkpoints.shipped import EXAMPLE, example_image, shipped_weights
from fw_train.page import figure, html_page, html_table, strip


def write_demo_report(folder: Path) -> Path:
    """Write FOLDER/report.html for a finished demo. Returns its path."""
    sections = [_head(made_with(folder)), *_worlds(folder), _annotation(folder), _training(folder), _steps(folder)]
    path = folder / "report.html"
    path.write_text(html_page("fantasy-world demo", sections), encoding="utf-8")
    return path


def generated(folder: Path) -> list[list[str]]:
    """The commands of the demo that generated its worlds."""
    steps = json.loads((folder / "demo.json").read_text())["steps"]
    return [step["command"] for step in steps if step["command"][:2] == ["fw", "generate"]]


def made_with(folder: Path) -> Path | None:
    """Checkpoint of the demo's worlds; None for the included weights."""
    own = any("--checkpoint" in command for command in generated(folder))
    return folder / "runs" / "stage2" / "export" if own else None


def _head(checkpoint: Path | None) -> str:
    included = (
        "Each world below starts from one image that the model has never seen, along a requested camera path. "
        "Frames, depth, points and cameras come from the same denoising pass. The model is the small one included in "
        "the package: it was trained from random numbers on two CPU cores and knows rendered rooms of this kind only, "
        "at this size. It is not a full-size model, and its figures say nothing about one; those start from the "
        "published Wan weights. Its model card, fw_model/small_world/README.md, lists its training."
    )
    own = (
        "This installation has no trained weights, so the world below was generated with the weights of this demo, "
        "trained for a few steps: its frames only show that every part works."
    )
    return f'<h1>fantasy-world demo</h1><p class="note">{own if checkpoint else included}</p>'


def _weights(checkpoint: Path | None) -> str:
    """Name of the weights and their training stages, from training.json of the checkpoint."""
    name = "small-world, of the package" if checkpoint is None else "trained in this demo"
    history = (checkpoint or shipped_weights()) / "training.json"
    stages = json.loads(history.read_text())["stages"]
    return f"{name}: " + ", ".join(f"{stage['stage']} {stage['steps']:,} steps" for stage in stages)


def _worlds(folder: Path) -> list[str]:
    """The generated worlds, then their figures in one table."""
    commands = generated(folder)
    figures = [_world_figures(Path(command[command.index("--out") + 1])) for command in commands]
    names = [f"{Path(command[2]).stem.removeprefix(EXAMPLE)}, {command[4]}" for command in commands]
    rows = [(label, *(found[label] for found in figures)) for label in figures[0]]
    return [
        *(_world(command) for command in commands),
        f"<p>Weights: {html.escape(_weights(made_with(folder)))}.</p>" + html_table(("figure", *names), rows),
    ]


def _world(command: list[str]) -> str:
    """One world: the input image, frames, depth, and the point cloud with both camera paths."""
    from fw_model.export import colorize, read_world

    world = read_world(Path(command[command.index("--out") + 1]))
    video, frames = world.video, len(world.video)
    sure = world.depth_confidence >= np.percentile(world.depth_confidence, 25)
    points = world.points[sure].astype(np.float64)
    cloud = render_cloud(points, video[sure], world.requested, recovered=world.trajectory)
    image = Path(command[2])
    if command[2].startswith(EXAMPLE):
        image = example_image(command[2]).path
    return (
        f"<h2>{html.escape(command[2])}, camera path {html.escape(command[4])}</h2>"
        + figure(strip(video, 6, 2), f"6 of the {frames} generated frames")
        + figure(strip(colorize(world.depth), 6, 2), "Their depth, from the same denoising pass")
        + '<div class="row">'
        + figure(np.asarray(Image.open(image).convert("RGB")), "The input image")
        + figure(cloud, "Predicted points, colored by the video; red: requested camera path, blue: recovered path")
        + "</div>"
    )


def _world_figures(world: Path) -> dict[str, str]:
    """Figures of world.json by label."""
    summary = json.loads((world / "world.json").read_text())
    error, length = summary["camera_error"], summary["path_length"]
    direction = error["translation_deg"]
    return {
        "rotation, recovered against requested": f"{error['rotation_deg']:.1f} deg",
        "direction of travel, recovered against requested": "-" if direction is None else f"{direction:.1f} deg",
        "path length, recovered against requested": f"{length['recovered']:.3f} / {length['requested']:.3f}",
        "points in the cloud": f"{summary['points']:,}",
    }


def _annotation(folder: Path) -> str:
    """Annotation against the exact ground truth, with one example clip (also saved as FOLDER/image.png)."""
    from fw_data.inspect.compare import HEADINGS, TRUSTED, cells, compare_with_truth, median_of
    from fw_geometry import Trajectory
    from fw_model.export import colorize

    rows = compare_with_truth(folder / "dataset", folder / "toy" / "truth")
    clip = held_out_clip(folder)
    frames, depth = strip(clip.video, 4), strip(colorize(clip.depth_m), 4)
    Image.fromarray(np.concatenate([frames, depth])).save(folder / "image.png")
    cameras = Trajectory(
        pose_c2w=clip.pose_c2w, K=clip.K, width=clip.video.shape[2], height=clip.video.shape[1], units=clip.units
    )
    sure = clip.valid & (clip.confidence > TRUSTED)
    cloud = render_cloud(clip.points_world[sure].astype(np.float64), clip.video[sure], cameras)
    confidence = np.repeat((clip.confidence * 255).astype(np.uint8)[..., None], 3, axis=-1)
    refusals = [json.loads(line) for line in (folder / "dataset" / "refusals.jsonl").read_text().splitlines()]
    refused = "".join(f"<li>{html.escape(row['source'])}: {html.escape(row['reason'])}</li>" for row in refusals)
    return (
        "<h2>Annotation against exact ground truth</h2>"
        '<p class="note">Cameras and depth of raw toy videos were found from the images alone (<code>fw-data '
        "annotate</code>), then compared with the exact ground truth. ATE is the root mean square error of the camera "
        "centers after a similarity alignment; AbsRel is the mean relative depth error over the covered pixels after "
        "one scale per clip.</p>"
        + html_table(HEADINGS, [*map(cells, rows), cells(median_of(rows))])
        + (f"<p>Not annotated:</p><ul>{refused}</ul>" if refused else "")
        + figure(frames, "A held-out clip: frames")
        + figure(depth, "its annotated depth (black: none)")
        + figure(strip(confidence, 4), "confidence of the depth (white: confident)")
        + figure(cloud, "its annotated points, all frames together; red: the annotated camera path")
    )


def _training(folder: Path) -> str:
    """Loss curves of the three training runs, and their held-out losses before and after."""
    from fw_train.report import loss_curves, svg_chart

    charts, rows = [], []
    for stage in ("base", "stage1", "stage2"):
        curves = loss_curves(folder / "runs" / stage)
        both = [series for series in curves if series.name in ("train loss", "val loss")]
        terms = [series for series in curves if series.name.startswith("val loss/")]
        charts.append(svg_chart(both, title=f"{stage}: loss"))
        if len(terms) > 1:
            charts.append(svg_chart(terms, title=f"{stage}: terms on held-out clips"))
        held_out = next(series for series in both if series.name == "val loss")
        first, last = held_out.values[0], held_out.values[-1]
        rows.append((stage, str(held_out.steps[-1]), f"{first:.3f}", f"{last:.3f}", f"{held_out.drop:.0%}"))
    return (
        "<h2>Training</h2>"
        '<p class="note">The three trainings of this demo, a few steps each; the whole recipe is '
        "<code>fw-train base small-world</code> and its stages.</p>"
        + html_table(("run", "steps", "held-out loss before", "after", "drop"), rows)
        + f'<div class="row">{"".join(charts)}</div>'
    )


def _steps(folder: Path) -> str:
    """Every command of the demo, with its time and peak memory."""
    steps = json.loads((folder / "demo.json").read_text())["steps"]
    rows = [
        (
            step["name"],
            f"{step['seconds']:.0f} s",
            f"{step['peak_memory_mb'] / 1024:.1f} GiB",
            " ".join(step["command"]),
        )
        for step in steps
    ]
    total = sum(step["seconds"] for step in steps)
    return (
        "<h2>The commands</h2>"
        f'<p class="note">{total / 60:.1f} minutes in all. Memory is the peak of the largest process so far.</p>'
        + html_table(("step", "time", "peak memory", "command"), rows)
    )
