"""One training step of stage 1 and of stage 2 by hand, with fw_model alone: inputs, losses, frozen weights, gradients.

    python examples/03_training_step.py losses.json

A slanted wall that the camera drives towards has known depth; weights are random. `fw-train` trains with these losses.
"""

import json
import sys
from pathlib import Path

import torch

from fw_geometry import make_trajectory, pixel_grid, unproject
from fw_model import FantasyWorld, tiny
from fw_model.autoencoders.base import first_frame_condition
from fw_model.autoencoders.block_dct import BlockDCT
from fw_model.encoders.hashing import HashTextEncoder
from fw_model.losses.losses import WorldLoss, geometry_loss, geometry_targets, world_loss
from fw_model.sampling import flow

FRAMES, HEIGHT, WIDTH = 9, 48, 64


def freeze_all_but(world: FantasyWorld, group: str) -> dict[str, torch.nn.Parameter]:
    """The parameters of one group (video, geometry, cross_branch); only they may get gradients now."""
    for name, parameter in world.named_parameters():
        parameter.requires_grad_(world.parameter_group(name) == group).grad = None
    return {name: parameter for name, parameter in world.named_parameters() if parameter.requires_grad}


def step(trained: dict[str, torch.nn.Parameter], loss: WorldLoss) -> dict[str, float]:
    """Backward and one AdamW step; the loss and its parts."""
    loss.total.backward()
    alive = sum(p.grad is not None and bool(p.grad.any()) for p in trained.values())
    print(f"  {len(trained)} tensors are trained, {alive} of them got a gradient that is not zero")
    torch.optim.AdamW(trained.values(), lr=1e-4).step()
    return {"total": loss.total.item(), **{name: float(value) for name, value in loss.parts.items()}}


def main() -> None:
    """Both steps."""
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "losses.json")
    path = make_trajectory("dolly", FRAMES, width=WIDTH, height=HEIGHT, distance=0.2)
    K, pose_c2w = torch.from_numpy(path.K).float()[None], torch.from_numpy(path.pose_c2w).float()[None]
    slope = 0.3 * (pixel_grid(HEIGHT, WIDTH)[..., 0] - WIDTH / 2) / K[0, 0, 0, 0]  # the wall: z = 2 + 0.3 x
    depth = (2 - pose_c2w[..., 2, 3])[..., None, None] / (1 - slope)
    x, y, _ = unproject(depth, K, pose_c2w).unbind(-1)
    video = torch.stack([torch.sin(9 * x) * torch.cos(7 * y), torch.sin(5 * y), torch.cos(4 * x)], dim=1)

    world, autoencoder = FantasyWorld(tiny(), seed=0), BlockDCT()
    head = world.video.head.head.weight  # zero in a new model; not in a pretrained one, so not here
    torch.nn.init.normal_(head, std=0.02, generator=flow.counter_generator(0, 0, 0, "head"))
    clean = autoencoder.encode(video)
    noise, times = flow.counter_noise(0, 0, 0, clean.shape[1:])[None], flow.TimestepSampler(shift=2.0).draw(0, 0, [0])
    noisy, timestep = flow.add_noise(clean, noise, times.sigma), times.sigma * flow.TRAIN_STEPS
    targets, scene = geometry_targets(depth, K, pose_c2w)  # in units of the mean distance of the points
    context = HashTextEncoder(text_len=16, text_dim=64).encode(["a wall"])
    first = first_frame_condition(autoencoder, video[:, :, :1], FRAMES, world.config.video.y_dim)
    print(f"timestep {float(timestep):.0f}, one scene unit is {float(scene.scale):.2f} of the clip's")

    print("stage 1: the geometry branch, on features of the frozen preconditioning blocks")
    trained = freeze_all_but(world, "geometry")
    geometry = world.forward_geometry(noisy, timestep, context=context, y=first)
    losses = {"stage1": step(trained, geometry_loss(geometry, targets))}

    print("stage 2: cross-branch attention and camera; zero gates stop learning behind them in the first step")
    trained = freeze_all_but(world, "cross_branch")
    rays = world.ray_map(K, scene.pose_c2w, HEIGHT, WIDTH)  # in the convention of this model
    both = world(noisy, timestep, context=context, y=first, plucker=rays)
    loss = world_loss(both.velocity, flow.flow_target(clean, noise), times.weight, both.geometry, targets)
    losses["stage2"] = step(trained, loss)

    out.write_text(json.dumps(losses, indent=1))
    print("all terms of both losses are in", out)


if __name__ == "__main__":
    main()
