"""The demo's report: one HTML file that holds everything in itself, images and curves included.

Every number on the page is computed here, from the files of the demo folder.
"""

import html
import json
from pathlib import Path

import numpy as np
from PIL import Image

from fw_app.cloud_image import render_cloud
from fw_app.demo_data import held_out_clip
from fw_model.checkpoints.shipped import shipped_weights
from fw_train.page import figure, html_page, html_table, strip


def write_demo_report(folder: Path) -> Path:
    """Write FOLDER/report.html from a finished demo and return its path."""
    sections = [_head(made_with(folder)), _world(folder), _annotation(folder), _training(folder), _steps(folder)]
    path = folder / "report.html"
    path.write_text(html_page("fantasy-world demo", sections), encoding="utf-8")
    return path


def made_with(folder: Path) -> Path | None:
    """The checkpoint that the demo's world was generated with; None for the weights that come with the package."""
    command = json.loads((folder / "demo.json").read_text())["steps"][-1]["command"]
    return folder / "runs" / "stage2" / "export" if "--checkpoint" in command else None


def _head(checkpoint: Path | None) -> str:
    shipped = (
        "The world below was generated with the small model included in the package, not with that one. The included "
        "model was trained earlier, on other toy scenes; its model card, fw_model/small_world/README.md, describes how."
    )
    own = (
        "This installation comes without trained weights, so the world below was generated with what this page "
        "trained in a few steps: its frames show that every part works, and nothing else."
    )
    return (
        "<h1>fantasy-world demo</h1>"
        '<p class="note">Raw toy videos were annotated without using their ground truth, and a small model was '
        f"trained on the result for a few steps. {shipped if checkpoint is None else own} Model and data are tiny: the "
        "page measures what they do, not what the method can do at full size.</p>"
    )


def _weights(checkpoint: Path | None) -> str:
    """What the world was generated with, by the history in the checkpoint itself."""
    name = "small-world, of the package" if checkpoint is None else "trained in this demo"
    history = (checkpoint or shipped_weights()) / "training.json"
    stages = json.loads(history.read_text())["stages"]
    return f"{name}: " + ", ".join(f"{stage['stage']} {stage['steps']:,} steps" for stage in stages)


def _world(folder: Path) -> str:
    """The generated world: frames, depth, point cloud with both camera paths, and the figures of world.json."""
    from fw_model.export import colorize, read_world

    world = read_world(folder / "world")
    summary = json.loads((folder / "world" / "world.json").read_text())
    video, frames = world.video, len(world.video)
    sure = world.depth_confidence >= np.percentile(world.depth_confidence, 25)
    points = world.points[sure].astype(np.float64)
    cloud = render_cloud(points, video[sure], world.requested, recovered=world.trajectory)
    error, length = summary["camera_error"], summary["path_length"]
    direction = error["translation_deg"]
    rows = [
        ("weights", _weights(made_with(folder))),
        ("rotation, recovered against requested", f"{error['rotation_deg']:.1f} deg"),
        ("direction of travel, recovered against requested", "-" if direction is None else f"{direction:.1f} deg"),
        ("path length, recovered against requested", f"{length['recovered']:.3f} / {length['requested']:.3f}"),
        ("points in the cloud", f"{summary['points']:,}"),
    ]
    given = np.asarray(Image.open(folder / "first_frame.png").convert("RGB"))
    return (
        "<h2>The generated world</h2>"
        + figure(
            strip(video, 6, 2),
            f"Generated frames, {frames} in all; the model was given the image below and an orbit to follow",
        )
        + figure(strip(colorize(world.depth), 6, 2), "Depth of the same frames, from the same denoising pass")
        + '<div class="row">'
        + figure(given, "The image it started from: a frame of a held-out clip")
        + figure(
            cloud,
            "Point cloud from the point head, colored by the video; red: requested camera path, blue: recovered one",
        )
        + "</div>"
        + html_table(("figure", "value"), rows)
    )


def _annotation(folder: Path) -> str:
    """Annotation against the exact ground truth, with one clip to look at (also saved as FOLDER/image.png)."""
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
        '<p class="note">Cameras and depth were found from the images alone (<code>fw-data annotate</code>). ATE is '
        "the root mean square error of the camera centers after a similarity alignment; AbsRel is the mean relative "
        "depth error over the covered pixels after one scale per clip.</p>"
        + html_table(HEADINGS, [*map(cells, rows), cells(median_of(rows))])
        + (f"<p>Not annotated:</p><ul>{refused}</ul>" if refused else "")
        + figure(frames, "A held-out clip: frames")
        + figure(depth, "its annotated depth (black: none)")
        + figure(strip(confidence, 4), "confidence of the depth (white: sure)")
        + figure(cloud, "its annotated points, all frames together; red: the camera path that was found")
    )


def _training(folder: Path) -> str:
    """Loss curves of the three trainings, and what they did to the held-out losses."""
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
    """Every command of the demo, how long it took and the memory it needed."""
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
