"""Overfit one clip: `python -m benchmarks.overfit` trains base, stage 1 and stage 2 on one room, then generates it.

If the network, the losses and the sampler are right, the generated world repeats the room: every row of the table has a
target. Noise levels are drawn as in any training. Writes overfit.json and overfit.md into an output folder; a second
run resumes. Exits 1 if a target is missed.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import torch

from benchmarks.model_table import Row, machine, markdown
from fw_core.images import psnr
from fw_geometry import Trajectory, unproject
from fw_model.pipeline.pipeline import WorldPipeline
from fw_model.pipeline.result import World
from fw_toy.rooms.clip import RoomClip, render_room
from fw_train.config.load import from_mapping, load
from fw_train.config.schema import Stage, TrainConfig
from fw_train.evidence.scores import reconstruct
from fw_train.tasks.train import EXPORT, train

FRAMES, HEIGHT, WIDTH = 9, 32, 48
STAGES: tuple[Stage, ...] = ("base", "stage1", "stage2")


def stage_config(stage: Stage, options: argparse.Namespace, init: Path | None) -> TrainConfig:
    """The small-world recipe on one room: constant clip, no camera or text dropout, all frames dense."""
    steps = {"base": options.base_steps, "stage1": options.stage1_steps, "stage2": options.stage2_steps}[stage]
    changes = {
        "data": f"rooms:{options.room}-{options.room}",
        "out": str(options.out / stage),
        "init": None if init is None else str(init),
        "steps": steps,
        "batch": 1,
        "seed": options.seed,
        "go_on": True,
        "clip": {"frames": FRAMES, "height": HEIGHT, "width": WIDTH, "pool": 1, "validate_on": 1},
        "dropout": {"text": 0.0},
        "every": {"log": 100, "validate": steps, "checkpoint": steps, "sample": 0},
        "compute": {"precision": "fp32"},
        "optim": {"ema": 0.99},
    }
    if stage != "base":
        changes["loss"] = {"dense_frames": 0}
        changes["optim"] = {"ema": 0.99, "lr": options.lr}
    return from_mapping(changes, load("small-world", stage))


def rows(clip: RoomClip, world: World, pipeline: WorldPipeline) -> list[Row]:
    """The generated world, in meters, against the room it was trained on, without any alignment."""
    ceiling = float(psnr(reconstruct(clip.video, pipeline.autoencoder), clip.video)[1:].mean())
    video = float(psnr(world.video, clip.video)[1:].mean())
    K, poses = torch.from_numpy(clip.plan.K).float(), torch.from_numpy(clip.plan.pose_c2w).float()
    points = unproject(torch.from_numpy(clip.depth_m), K.expand(FRAMES, 3, 3), poses).numpy()
    distance = np.linalg.norm(points, axis=-1)
    truth = clip.plan.pose_c2w
    centers = truth[:, :3, 3]
    length = np.linalg.norm(np.diff(centers, axis=0), axis=-1).sum()
    cosine = (np.einsum("fij,fij->f", truth[:, :3, :3], world.trajectory.pose_c2w[:, :3, :3]) - 1) / 2
    rotation = np.degrees(np.arccos(np.clip(cosine, -1, 1)))[1:].mean()
    away = np.linalg.norm(world.trajectory.pose_c2w[:, :3, 3] - centers, axis=-1)[1:].mean()
    off = np.linalg.norm(world.points - points, axis=-1)
    return [
        Row(
            name="PSNR below the autoencoder's",
            value=ceiling - video,
            unit="dB",
            target="<= 0.5",
            details=f"{video:.1f} of {ceiling:.1f} dB, frames 1 to {FRAMES - 1}",
        ),
        Row(
            name="depth, AbsRel",
            value=float((np.abs(world.depth - clip.depth_m) / clip.depth_m).mean()),
            unit="",
            target="<= 0.02",
        ),
        Row(name="points, error over distance", value=float((off / distance).mean()), unit="", target="<= 0.02"),
        Row(name="rotation of the cameras", value=float(rotation), unit="deg", target="<= 0.3"),
        Row(
            name="translation of the cameras",
            value=float(away / length),
            unit="of the path",
            target="<= 0.03",
            details=f"mean error {away:.4f}, path {length:.3f} m",
        ),
    ]


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench/overfit"), help="folder for the runs and the table")
    parser.add_argument("--room", type=int, default=0, help="seed of the room")
    parser.add_argument("--base-steps", type=int, default=3000)
    parser.add_argument("--stage1-steps", type=int, default=1500)
    parser.add_argument("--stage2-steps", type=int, default=1500)
    parser.add_argument("--lr", type=float, default=1e-3, help="learning rate of stages 1 and 2")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    clip = render_room(options.room, frames=FRAMES, height=HEIGHT, width=WIDTH)
    if np.ptp(clip.plan.pose_c2w[:, :3, 3], axis=0).max() == 0:
        parser.error(f"the camera of room {options.room} does not travel: choose another --room")
    init: Path | None = None
    for stage in STAGES:
        if not (options.out / stage / EXPORT).is_dir():
            train(stage_config(stage, options, init))
        init = options.out / stage
    pipeline = WorldPipeline.from_pretrained(options.out / "stage2" / EXPORT)
    path = Trajectory(
        pose_c2w=clip.plan.pose_c2w, K=np.repeat(clip.plan.K[None], FRAMES, axis=0), width=WIDTH, height=HEIGHT
    )
    first = torch.from_numpy(clip.depth_m[:1])
    points = unproject(first, torch.from_numpy(clip.plan.K[None]).float(), torch.eye(4)[None])
    world = pipeline(
        clip.video[0], clip.plan.caption, path, seed=options.seed, scene_scale=float(points.norm(dim=-1).mean())
    )
    found, facts = rows(clip, world, pipeline), machine()
    text = markdown(found, facts)
    print(text)
    table = [{**dataclasses.asdict(row), "met": row.met} for row in found]
    (options.out / "overfit.json").write_text(json.dumps({"machine": facts, "rows": table}, indent=1) + "\n")
    (options.out / "overfit.md").write_text(text, encoding="utf-8")
    return 0 if all(row.met for row in found) else 1


if __name__ == "__main__":
    sys.exit(main())
