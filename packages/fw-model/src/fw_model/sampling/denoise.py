"""The sampling loop: from noise to clean latents with guidance on the text, and the geometry of the last step.

Axes: b batch, c channels, f latent frames, y x latent rows and columns.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fw_model.geometry.branch import GeometryOutput
from fw_model.model.conditioning import Conditioning
from fw_model.model.model import FantasyWorld
from fw_model.parallel.group import GuidancePair
from fw_model.sampling.easycache import EasyCache, Velocities
from fw_model.sampling.flow import TRAIN_STEPS, FlowSchedule, guide
from fw_model.sampling.samplers import make_sampler

Prompted = Callable[[FantasyWorld], tuple[Conditioning, Conditioning | None]]
"""Conditional and (with guidance) unconditional inputs for one expert."""


@dataclass(frozen=True, kw_only=True)
class DenoiseStep:
    """The state after one step."""

    index: int
    """Steps done, from 1."""
    latents: Float[Tensor, "b c f y x"]
    """Latents at the next noise level; clean after the last step."""
    geometry: GeometryOutput | None
    """Depth, points and poses, from the conditional pass of the last step; None before."""
    reused_steps: int
    """Steps so far whose velocity was taken over from an earlier one (EasyCache) and not computed."""


def denoise(
    experts: Sequence[FantasyWorld],
    prompted: Prompted,
    noise: Float[Tensor, "b c f y x"],
    schedule: FlowSchedule,
    *,
    sampler: str = "euler",
    guidance_scale: float = 5.0,
    cross_branch: bool = True,
    easycache: float | None = None,
    on_device: Callable[[FantasyWorld], AbstractContextManager[None]] = nullcontext,
    pair: GuidancePair | None = None,
) -> Iterator[DenoiseStep]:
    """Run the schedule and report after each step, so that the caller may stop between steps.

    Args:
        experts: one model, or several that share the noise levels between them by ``config.timestep_range``.
        prompted: embeds the conditions for an expert; called once for each expert, when its first step comes.
        noise: start latents, standard normal, float32. They stay in this precision throughout.
        schedule: noise levels.
        sampler: a name that ``make_sampler`` knows.
        guidance_scale: ``v = v_neg + guidance_scale (v_pos - v_neg)``; at 1 the unconditional pass is skipped.
        cross_branch: let the branches attend to each other.
        easycache: threshold of step reuse, see ``EasyCache``; None computes every step.
        on_device: keeps an expert on the device during its steps; entered once per expert.
        pair: two processes that compute one of the two passes of guidance each; the geometry is then that of the first.

    Raises:
        ValueError: an unknown sampler, or a timestep that no expert is for.
        FloatingPointError: latents that are not finite, with the step at which they appeared.
    """
    stepper = make_sampler(sampler, schedule)
    cache = None if easycache is None else EasyCache(easycache, schedule.steps)
    latents = noise
    current: FantasyWorld | None = None
    condition: Conditioning | None = None
    negative: Conditioning | None = None
    with ExitStack() as held:
        for index, timestep in enumerate(schedule.timesteps):
            # enter the expert of this noise level, and embed its conditions once
            expert = choose_expert(experts, float(timestep))
            if expert is not current or condition is None:
                condition = negative = None
                held.close()
                held.enter_context(on_device(expert))
                current, (condition, negative) = expert, prompted(expert)
                if cache is not None:
                    cache.forget()
            geometry: GeometryOutput | None = None
            with torch.no_grad():
                # predict the velocity, or reuse the one of an earlier step
                velocities = None if cache is None else cache.recall(latents, index)
                if velocities is None:
                    t = timestep.expand(latents.shape[0]).to(latents.device)
                    last = index == schedule.steps - 1
                    passes = [condition] if negative is None or guidance_scale == 1 else [condition, negative]
                    mine = passes if pair is None or len(passes) == 1 else [passes[pair.branch]]
                    made: list[Tensor] = []
                    for given in mine:
                        heads = last and given is condition
                        out = expert(latents, t, condition=given, predict_geometry=heads, cross_branch=cross_branch)
                        made.append(out.velocity)
                        geometry = out.geometry or geometry
                    if pair is not None and len(mine) < len(passes):
                        made = list(pair.both(made[0]))
                    velocities = Velocities(made[0], made[1] if len(made) == 2 else None)
                    if cache is not None:
                        cache.store(latents, velocities)
                # guide, and step to the next noise level
                positive, away = velocities
                velocity = positive if away is None else guide(positive, away, guidance_scale)
                latents = stepper.step(latents, velocity, index)
            if not bool(latents.isfinite().all()):
                raise FloatingPointError(
                    f"step {index + 1} of {schedule.steps} (timestep {float(timestep):.0f}) gave latents that are not "
                    f"finite, with guidance_scale {guidance_scale} and {_precision(expert)} weights. Load the model in "
                    "float32 or bfloat16, or lower guidance_scale."
                )
            reused = 0 if cache is None else cache.reused
            yield DenoiseStep(index=index + 1, latents=latents, geometry=geometry, reused_steps=reused)


def _precision(expert: FantasyWorld) -> str:
    return str(expert.video.patch_embedding.weight.dtype).removeprefix("torch.")


def choose_expert(experts: Sequence[FantasyWorld], timestep: float) -> FantasyWorld:
    """The model whose timestep range (low, high] holds ``timestep``. ValueError if there is none."""
    for expert in experts:
        low, high = expert.config.timestep_range
        if low < timestep <= high:
            return expert
    ranges = ", ".join(f"({e.config.timestep_range[0]:g}, {e.config.timestep_range[1]:g}]" for e in experts)
    raise ValueError(
        f"No loaded model is for timestep {timestep:g} of {TRAIN_STEPS}; the ranges are {ranges}. "
        "A two-expert model needs both experts."
    )


def clean_latents(
    before: Float[Tensor, "b c f y x"], state: DenoiseStep, schedule: FlowSchedule
) -> Float[Tensor, "b c f y x"]:
    """Clean latents that one step points at: exact for Euler, where the velocity is the slope of the step."""
    old, new = (float(sigma) for sigma in schedule.sigmas[state.index - 1 : state.index + 1])
    return state.latents - new * (state.latents - before) / (new - old)
