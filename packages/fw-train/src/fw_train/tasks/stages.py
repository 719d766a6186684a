"""The training stages of the world model: trained parameters and loss of each.

base    the video branch alone, as a small prior (flow matching; no geometry)
stage1  the geometry branch on features of the frozen preconditioning blocks (geometry losses only)
stage2  cross-attention between the branches, camera adapters and encoder (flow and geometry losses)
distill adapters with which few steps end where many steps of the same model do (flow and geometry losses)

Axes: b batch, c channels, f latent frames, y x latent rows and columns, F frames, H W pixels.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fw_core.tables import aligned
from fw_model.geometry.tokens import PoseTokens
from fw_model.losses.config import WorldLossConfig
from fw_model.losses.losses import flow_matching_loss, geometry_loss, world_loss
from fw_model.losses.targets import GeometryTargets
from fw_model.model.irg import IRGBlock
from fw_model.model.model import FantasyWorld
from fw_model.model.rays import RayMap
from fw_model.sampling.flow import TRAIN_STEPS, add_noise, flow_target, guide
from fw_train.config.schema import Stage, TrainConfig
from fw_train.lora import is_adapter, without_adapters
from fw_train.tasks.distillation import NoiseWindow, window_velocity

TRAINED: dict[Stage, frozenset[str]] = {
    "autoencoder": frozenset(),
    "base": frozenset({"video"}),
    "stage1": frozenset({"geometry"}),
    "stage2": frozenset({"cross_branch"}),
    "distill": frozenset(),
}
"""Parameter groups (see FantasyWorld.parameter_group) that each stage trains; the rest of the model is frozen."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Inputs and labels of some samples at drawn noise levels."""

    clean: Float[Tensor, "b c f y x"]
    """Clean latents."""
    noise: Float[Tensor, "b c f y x"]
    """Standard normal noise."""
    sigma: Float[Tensor, " b"]
    """Noise level, 0 to 1."""
    weight: Float[Tensor, " b"]
    """Weight of each sample's flow loss."""
    context: Float[Tensor, "b t d"]
    """Text embeddings."""
    y: Float[Tensor, "b cy f y x"] | None
    """First-frame condition."""
    clip_feature: Float[Tensor, "b l e"] | None
    """CLIP tokens of the first frame."""
    plucker: RayMap | None
    """Camera rays in units of the scene, for the pose encoder, which stage 2 trains; None elsewhere."""
    control: Float[Tensor, "b k f y x"] | None
    """The same camera for the backbone's control adapter, in every stage; None for a backbone without one."""
    targets: GeometryTargets | None
    """Depth, points and poses in units of the scene; `base` reads none."""
    cross_branch: bool = True
    """Whether the branches attend to each other (cross_branch dropout)."""
    dense_frames: tuple[int, ...] | None = None
    """Ascending output frames whose depth and points are predicted and compared; None: all."""
    window: NoiseWindow | None = None
    """The teacher's steps of `distill`, which start at `sigma`."""


Loss = Callable[[FantasyWorld, Batch, WorldLossConfig], Mapping[str, Tensor]]


def choose_parameters(world: FantasyWorld, stage: Stage, *, unfreeze: Collection[str] = ()) -> list[str]:
    """Freeze all parameters that a stage does not train; returns a table of trained and frozen parts, line by line.

    Parameters that no stage passes inputs to (`unused_parameters`) are frozen too.

    Args:
        world: the model.
        stage: see `TRAINED`.
        unfreeze: groups that are trained too, see `TrainConfig.unfrozen`.

    Raises:
        ValueError: no module declares the training group of a parameter (a bug in the model).
    """
    trained = trained_groups(stage, unfreeze=unfreeze)
    unused = unused_parameters(world)
    for name, parameter in world.named_parameters():
        parameter.requires_grad_(parameter_group(world, name) in trained and name not in unused)
    return _table(world)


def trained_groups(stage: Stage, *, unfreeze: Collection[str] = ()) -> frozenset[str]:
    """The parameter groups that a stage trains."""
    return TRAINED[stage] | {"adapters"} | set(unfreeze)


def unused_parameters(world: FantasyWorld) -> frozenset[str]:
    """Parameters that no loss depends on: those that turn known poses into camera tokens.

    The released model has them, but neither the paper nor the released code passes poses to the geometry branch.
    """
    owners = [name for name, module in world.named_modules() if isinstance(module, PoseTokens)]
    return frozenset(name for name, _ in world.named_parameters() if name.startswith(tuple(f"{o}." for o in owners)))


def parameter_group(world: FantasyWorld, name: str) -> str:
    """ "adapters" for a LoRA parameter, else the model's own group: "video", "geometry" or "cross_branch"."""
    return "adapters" if is_adapter(name) else world.parameter_group(name)


def idle_parts(world: FantasyWorld, stage: Stage) -> list[nn.Module]:
    """Submodules that the loss of a stage never runs, so that they may stay on another device."""
    layers = [layer for layer in world.irg if isinstance(layer, IRGBlock)]
    if stage == "stage1":
        idle = [*(layer.video for layer in layers), *(layer.cross_branch for layer in layers)]
        idle += [world.pose_encoder, world.video.head]
    elif stage == "base":
        idle = [part for layer in layers for part in (layer.frame, layer.global_, layer.cross_branch)]
        idle += [world.geometry, world.pose_encoder]
    else:
        idle = []
    return [part for part in idle if part is not None]


def offloaded_blocks(world: FantasyWorld, config: TrainConfig) -> list[nn.Module]:
    """The blocks whose frozen weights are in host memory, first to last."""
    return [*world.pcb, *world.irg][: config.compute.offload_blocks]


def frozen_parameters(modules: Iterable[nn.Module]) -> list[nn.Parameter]:
    """Their parameters without requires_grad."""
    return [p for module in modules for p in module.parameters() if not p.requires_grad]


def place(
    world: FantasyWorld,
    device: torch.device,
    *,
    without: Sequence[nn.Module] = (),
    offloaded: Iterable[nn.Parameter] = (),
) -> None:
    """Move the network to a device, some submodules and offloaded parameters excepted."""
    excepted = {id(module) for part in without for module in part.modules()}
    stay = {id(parameter) for parameter in offloaded}
    for module in world.modules():
        if id(module) not in excepted:
            module._apply(lambda tensor: tensor if id(tensor) in stay else tensor.to(device), recurse=False)


def base_loss(world: FantasyWorld, batch: Batch, _: WorldLossConfig) -> Mapping[str, Tensor]:
    """Flow matching of the plain video model; the geometry branch is not executed."""
    out = world(
        add_noise(batch.clean, batch.noise, batch.sigma),
        batch.sigma * TRAIN_STEPS,
        context=batch.context,
        y=batch.y,
        control=batch.control,
        predict_geometry=False,
        cross_branch=False,
    )
    flow = flow_matching_loss(out.velocity, flow_target(batch.clean, batch.noise), batch.weight)
    return {"loss": flow, "loss/flow": flow}


def stage1_loss(world: FantasyWorld, batch: Batch, config: WorldLossConfig) -> Mapping[str, Tensor]:
    """L_geo of the geometry branch alone; the video blocks after the preconditioning ones are not executed."""
    noisy = add_noise(batch.clean, batch.noise, batch.sigma)
    geometry = world.forward_geometry(
        noisy,
        batch.sigma * TRAIN_STEPS,
        context=batch.context,
        y=batch.y,
        clip_feature=batch.clip_feature,
        control=batch.control,
        dense_frames=batch.dense_frames,
    )
    assert batch.targets is not None, "a batch for geometry losses has targets"
    loss = geometry_loss(geometry, batch.targets, config, dense_frames=batch.dense_frames)
    return {"loss": loss.total, "loss/geometry": loss.total, **_log_names(loss.parts)}


def stage2_loss(world: FantasyWorld, batch: Batch, config: WorldLossConfig) -> Mapping[str, Tensor]:
    """L_flow + lambda L_geo of the whole model; lambda = 0 leaves the heads out."""
    return _joint_loss(world, batch, config, flow_target(batch.clean, batch.noise))


def distill_loss(world: FantasyWorld, batch: Batch, config: WorldLossConfig) -> Mapping[str, Tensor]:
    """`stage2_loss` with another target of the flow: the end of the teacher's steps through the window."""
    window = batch.window
    assert window is not None, "a batch for distillation has windows"
    inputs = {"y": batch.y, "clip_feature": batch.clip_feature, "plucker": batch.plucker, "control": batch.control}

    def velocity(latents: Tensor, sigma: Tensor) -> Tensor:
        def predict(context: Tensor) -> Tensor:
            return world(latents, sigma * TRAIN_STEPS, context=context, **inputs, predict_geometry=False).velocity

        made = predict(batch.context)
        return made if window.empty is None else guide(made, predict(window.empty), window.guidance_scale)

    with torch.no_grad(), without_adapters(world):
        target = window_velocity(velocity, add_noise(batch.clean, batch.noise, batch.sigma), window.sigmas)
    return _joint_loss(world, batch, config, target)


def _joint_loss(
    world: FantasyWorld, batch: Batch, config: WorldLossConfig, target: Float[Tensor, "b c f y x"]
) -> Mapping[str, Tensor]:
    out = world(
        add_noise(batch.clean, batch.noise, batch.sigma),
        batch.sigma * TRAIN_STEPS,
        context=batch.context,
        y=batch.y,
        clip_feature=batch.clip_feature,
        plucker=batch.plucker,
        control=batch.control,
        predict_geometry=config.geometry > 0,
        dense_frames=batch.dense_frames,
        cross_branch=batch.cross_branch,
    )
    loss = world_loss(
        out.velocity, target, batch.weight, out.geometry, batch.targets, config, dense_frames=batch.dense_frames
    )
    terms = {"loss": loss.total, **_log_names(loss.parts)}
    if out.geometry is not None:
        flow = loss.parts["flow"].clamp_min(1e-12)
        terms["balance/geometry_over_flow"] = config.geometry * loss.parts["geometry"] / flow
    return terms


LOSSES: Mapping[Stage, Loss] = {
    "base": base_loss,
    "stage1": stage1_loss,
    "stage2": stage2_loss,
    "distill": distill_loss,
}
"""The loss of each stage."""


def _log_names(parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"loss/{name}": value for name, value in parts.items()}


def _table(world: FantasyWorld) -> list[str]:
    """One line per part of the model: group, parameters, trained or frozen."""
    sizes: Counter[tuple[bool, str, str]] = Counter()
    unused = unused_parameters(world)
    for name, parameter in world.named_parameters():
        part = ".".join([piece for piece in name.split(".") if not piece.isdigit()][:2])
        for own in (".camera_adapter.", ".lora_"):
            if own in name:
                part = part.split(".")[0] + own.rstrip("._")
        if name in unused:
            part = name.rpartition(".from_poses.")[0] + ".from_poses (no input)"
        sizes[not parameter.requires_grad, parameter_group(world, name), part] += parameter.numel()
    rows = [
        (part, group, f"{n:,}", "frozen" if frozen else "trained") for (frozen, group, part), n in sorted(sizes.items())
    ]
    total = sum(n for (frozen, _, _), n in sizes.items() if not frozen)
    table = aligned(rows, align="llrl")
    return [*table, f"  {total:,} of {sum(sizes.values()):,} parameters are trained"]
