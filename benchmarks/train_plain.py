"""Stage 1 in the plain way: what the training bench compares with.

It is modeled on the public reproduction for a 1.3B backbone (a fork of DiffSynth-Studio, February 2026), whose stage 1
is its stage 2 with other parameters frozen. What that executes, and so what is executed here:

- All video blocks, with gradients: they are frozen, but the embeddings before them and the output head behind them are
  not, so gradients flow from the head through every block to the embeddings.
- All geometry layers, and after each layer the cross-attention of both branches, although its parameters are frozen.
- The video head, both dense heads, the camera head, and the sum of diffusion and geometry losses.
- Full activation checkpointing of video blocks and geometry layers, which it forces; none of cross-attention and heads.

What is not modeled, all in favor of the plain side: its geometry layers are copies of the wide video blocks (with
attention to the text), its cross-attention has two sets of projections, and its camera adapters run where cameras are
given. Network, batch, precision, losses and optimizer are the same on both sides of the bench.
"""

from torch import Tensor

from fw_model.geometry.branch import join_features
from fw_model.geometry.dpt import DPTHead
from fw_model.layers.recompute import recomputed
from fw_model.losses.config import WorldLossConfig
from fw_model.losses.losses import world_loss
from fw_model.model.irg import IRGBlock
from fw_model.model.model import FantasyWorld, WorldOutput
from fw_model.sampling.flow import TRAIN_STEPS, add_noise, flow_target
from fw_model.wan.embeddings import unpatchify
from fw_train.tasks.stages import Batch


def choose_plain(world: FantasyWorld) -> None:
    """Train embeddings and video head beside what stage 1 trains, and keep the activations of the heads."""
    world.video.requires_grad_(True)
    for module in world.modules():
        if isinstance(module, DPTHead):
            module.checkpointing = False


def plain_loss(world: FantasyWorld, batch: Batch, config: WorldLossConfig) -> Tensor:
    """Flow and geometry losses from one pass over everything."""
    out = plain_forward(world, batch)
    target = flow_target(batch.clean, batch.noise)
    return world_loss(
        out.velocity, target, batch.weight, out.geometry, batch.targets, config, dense_frames=batch.dense_frames
    ).total


def plain_forward(world: FantasyWorld, batch: Batch) -> WorldOutput:
    """The pass: blocks and geometry layers are checkpointed, everything else keeps its activations."""
    noisy, timestep = add_noise(batch.clean, batch.noise, batch.sigma), batch.sigma * TRAIN_STEPS
    condition = world.encode_condition(context=batch.context, y=batch.y, clip_feature=batch.clip_feature, cache=False)
    grid = world._grid(noisy, timestep, condition)
    video, time, step = world._start(noisy, timestep, condition, grid)
    for i, block in enumerate(world.pcb):
        video = recomputed(block, video, step, condition.block(i), kind="full")
    geometry = world.geometry.enter(video, grid[0], None)
    steps, cross_step = world.geometry.steps(world._rounded(timestep), *grid), world._cross_branch_step(grid)
    features: dict[int, Tensor] = {}
    for i, layer in enumerate(world.irg):
        assert isinstance(layer, IRGBlock)
        context = condition.block(len(world.pcb) + i)
        out = recomputed(layer, video, geometry, video_step=step, context=context, geometry_steps=steps, kind="full")
        assert layer.cross_branch is not None
        video, state = layer.cross_branch(out.video, out.geometry.flatten(1, 2), cross_step)
        geometry = state.unflatten(1, out.geometry.shape[1:3])
        if world._is_tapped(i):
            features[i] = join_features(out.frame, geometry)
    velocity = unpatchify(world.video.head(video, time), *grid)
    return WorldOutput(velocity=velocity, geometry=world.geometry.predict(features, *grid[1:]))
