"""Outputs and gradients of a model in one process and in several that divide every sample; run by test_sequence.py.

    python sequence_driver.py WORK MODEL PROCESSES

Imports torch once and forks. Writes one.safetensors (one process), many.safetensors (gradients averaged over the
processes, as data parallelism does) and many.json: configuration, token grid, the largest difference of outputs between
the processes, and the bytes that each sent to others in a forward pass.
"""

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from fw_model.config import PATCH, WorldConfig, preset
from fw_model.model.model import FantasyWorld
from fw_model.model.rays import RayMap
from fw_model.parallel.sequence import SequenceGroup

GRID = (5, 3, 3)
"""Latent frames, token rows and columns: 45 video tokens, which neither 2 nor 4 processes divide evenly."""


def small(name: str) -> WorldConfig:
    """A preset at full width, with few blocks, and (1.3B) narrow feed-forward layers and small dense heads."""
    config = preset(name)
    heads = {"dpt_features": 8, "dpt_channels": (8, 8, 8, 8), "camera_trunk": 1, "camera_iterations": 2}
    pcb, irg = (2, 3) if name == "tiny" else (1, 1)
    taps = (2, 1, 1, 0) if name == "tiny" else (0, 0, 0, 0)
    assert config.camera is not None
    return dataclasses.replace(
        config,
        video=dataclasses.replace(
            config.video, blocks=pcb + irg, text_dim=64, text_len=8, ffn_dim=min(config.video.ffn_dim, 512)
        ),
        geometry=dataclasses.replace(config.geometry, dpt_taps=taps, **heads),
        camera=dataclasses.replace(config.camera, adapter_blocks=2),
        pcb_blocks=pcb,
    )


def live_model(config: WorldConfig) -> FantasyWorld:
    """A model whose gates, adapters and head are moved off zero."""
    world = FantasyWorld(config)
    g = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in world.parameters():
            spread = 0.2 if parameter.ndim < 2 else 0.5 * parameter[0].numel() ** -0.5
            parameter.add_(torch.randn(parameter.shape, generator=g) * spread)
    return world


def inputs(config: WorldConfig) -> dict[str, Any]:
    """Two samples."""
    g = torch.Generator().manual_seed(11)
    frames, rows, columns = (n * p for n, p in zip(GRID, PATCH, strict=True))
    video = config.video

    def rand(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g)

    made: dict[str, Any] = {"context": rand(2, video.text_len, video.text_dim)}
    made["latents"], made["timestep"] = rand(2, video.out_dim, frames, rows, columns), torch.tensor([300.0, 800.0])
    if video.y_dim:
        made["y"] = rand(2, video.y_dim, frames, rows, columns)
    if video.clip_dim:
        made["clip_feature"] = rand(2, video.clip_len, video.clip_dim)
    if config.camera is not None or video.control_dim is not None:
        scale = config.camera.downscale if config.camera else 8
        rays = rand(2, 4 * frames - 3, scale * rows, scale * columns, 6)
        made["plucker"] = RayMap(rays=rays, convention=config.compat.plucker)
    return made


def measure(world: FantasyWorld) -> dict[str, torch.Tensor]:
    """Outputs of both entry points, and gradients of a loss that weighs all of them."""
    given = inputs(world.config)
    made = world(**given, dense_frames=[0, 2, 3, 9, 16])
    alone = world.forward_geometry(**given)
    found = {"velocity": made.velocity, "stage1/depth": alone.depth, "stage1/pose": alone.pose_encodings[-1]}
    for name in ("depth", "depth_confidence", "points", "points_confidence"):
        found[name] = getattr(made.geometry, name)
    found |= {f"pose/{i}": pose for i, pose in enumerate(made.geometry.pose_encodings)}
    g = torch.Generator().manual_seed(5)
    loss = sum((value * torch.randn(value.shape, generator=g)).mean() for value in found.values())
    assert isinstance(loss, torch.Tensor)
    loss.backward()
    gradients = {f"grad/{name}": p.grad for name, p in world.named_parameters() if p.grad is not None}
    return {name: value.detach().clone() for name, value in {**found, **gradients}.items()}


def process(world: FantasyWorld, work: Path, rank: int, size: int) -> None:
    """One of several processes."""
    store = dist.FileStore(str(work / "rendezvous"), size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
    world.set_sequence_group(SequenceGroup(size=size, rank=rank))
    sent = count_bytes(world, rank)
    world.set_checkpointing("full")  # blocks exchange again in the backward pass
    found = measure(world)
    apart = 0.0
    for name, value in found.items():
        if name.startswith("grad/"):
            dist.all_reduce(value)
            value /= size
        else:
            largest, smallest = value.clone(), value.clone()
            dist.all_reduce(largest, dist.ReduceOp.MAX)
            dist.all_reduce(smallest, dist.ReduceOp.MIN)
            apart = max(apart, float((largest - smallest).abs().max()))
    all_sent: list[Any] = [None] * size
    dist.all_gather_object(all_sent, sent)
    about = {"apart": apart, "sent": all_sent, "grid": GRID, "config": world.config.to_json()}
    if rank == 0:
        save_file({name: value.contiguous() for name, value in found.items()}, work / "many.safetensors")
        (work / "many.json").write_text(json.dumps(about))
    dist.destroy_process_group()


def count_bytes(world: FantasyWorld, rank: int) -> int:
    """Bytes that this process sends to others in a forward pass with geometry."""
    plain, sent = dist.all_to_all_single, 0

    def counting(out: torch.Tensor, x: torch.Tensor, received: list[int], parts: list[int], **kwargs: Any) -> None:
        nonlocal sent
        sent += x.element_size() * (sum(parts) - parts[rank])
        plain(out, x, received, parts, **kwargs)

    dist.all_to_all_single = counting
    with torch.no_grad():
        world(**inputs(world.config))
    dist.all_to_all_single = plain
    return sent


def main(work: Path, name: str, size: int) -> None:
    torch.set_num_threads(1)
    world = live_model(small(name))
    children = []
    for rank in range(size):
        child = os.fork()
        if child == 0:
            process(world, work, rank, size)
            os._exit(0)
        children.append(child)
    for child in children:
        assert os.waitpid(child, 0)[1] == 0, "a process failed"
    save_file({name: value.contiguous() for name, value in measure(world).items()}, work / "one.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
