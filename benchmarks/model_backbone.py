"""The 1.3B preset's video backbone against diffusers' WanTransformer3DModel: same weights, same inputs.

Both modules hold the very same tensors, so the weights are in memory once. `python -m benchmarks.model_backbone SIDE`
runs one side alone and prints its peak memory.
"""

import argparse
import dataclasses
import resource
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed, WanTransformer3DModel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.model_table import Row, Times, has_fast_bfloat16, matmul_peak, paired, ratio_row
from fw_model.checkpoints.keys import to_diffusers
from fw_model.config import WorldConfig, wan21_fun_1_3b
from fw_model.model.model import FantasyWorld
from fw_model.model.rays import RayMap

LATENT = (3, 30, 52)
"""1,170 tokens: 9 frames of 240 x 416 pixels."""
_POOL = 1 << 22


def backbone(blocks: int, dtype: torch.dtype, *, control: bool = False) -> FantasyWorld:
    """The preset with its first `blocks` video blocks; only the video parameters exist, the others stay on meta.

    Without `control` the control adapter is left out, which diffusers' model does not have.
    """
    with torch.device("meta"):
        world = FantasyWorld(shortened(blocks, control=control))
    pool = torch.randn(_POOL, generator=torch.Generator().manual_seed(0)).to(dtype)
    for place, (name, parameter) in enumerate(world.named_parameters()):
        if world.parameter_group(name) != "video":
            continue
        value = torch.empty(parameter.shape, dtype=dtype)
        _fill(value.view(-1), pool, 7919 * place)
        scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
        owner, _, leaf = name.rpartition(".")
        kept = value.mul_(scale).add_(1.0 if "norm" in name and leaf == "weight" else 0.0)
        world.get_submodule(owner)._parameters[leaf] = torch.nn.Parameter(kept, requires_grad=False)
    world.video_rope.to_empty(device="cpu")  # writes its tables
    return world.eval()


def _fill(flat: torch.Tensor, pool: torch.Tensor, start: int) -> None:
    """Copy the pool into `flat` from `start` on, round and round, without memory that an allocator would keep."""
    done = 0
    while done < flat.numel():
        begin = (start + done) % pool.numel()
        some = min(flat.numel() - done, pool.numel() - begin)
        flat[done : done + some] = pool[begin : begin + some]
        done += some


def shortened(blocks: int, *, control: bool) -> WorldConfig:
    """The preset's config with fewer blocks, in the same proportion of the two kinds."""
    config = wan21_fun_1_3b()
    pcb = max(1, round(config.pcb_blocks * blocks / config.video.blocks))
    last = blocks - pcb - 1
    return dataclasses.replace(
        config,
        video=dataclasses.replace(
            config.video, blocks=blocks, control_dim=config.video.control_dim if control else None
        ),
        camera=None,
        geometry=dataclasses.replace(config.geometry, dpt_taps=tuple(min(t, last) for t in config.geometry.dpt_taps)),
        pcb_blocks=pcb,
    )


def peer(world: FantasyWorld) -> WanTransformer3DModel:
    """diffusers' model around the same tensors. In bf16 it keeps norms and time embedding in float32, as it loads."""
    v = world.config.video
    with torch.device("meta"):
        other = WanTransformer3DModel(
            num_attention_heads=v.heads,
            attention_head_dim=v.dim // v.heads,
            in_channels=v.in_dim,
            text_dim=v.text_dim,
            ffn_dim=v.ffn_dim,
            num_layers=v.blocks,
            image_dim=v.clip_dim,
            added_kv_proj_dim=v.dim,
        )
    names = {n: to_diffusers(n, world.config.pcb_blocks) for n, _ in world.named_parameters()}
    weights = {
        names[n]: p
        for n, p in world.named_parameters()
        if world.parameter_group(n) == "video" and ".control_adapter." not in n
    }
    other.load_state_dict(weights, strict=True, assign=True)
    other.rope = WanRotaryPosEmbed(v.dim // v.heads, (1, 2, 2), 1024)
    for name, parameter in other.named_parameters():
        if any(part in name for part in other._keep_in_fp32_modules or []):
            parameter.data = parameter.data.float()
    return other.eval()


def inputs(world: FantasyWorld, dtype: torch.dtype, device: str = "cpu") -> dict[str, Any]:
    """Latents, timestep, prompt, image."""
    v = world.config.video
    g = torch.Generator().manual_seed(1)

    def rand(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g).to(device=device, dtype=dtype)

    return {
        "latents": rand(1, 16, *LATENT),
        "timestep": torch.tensor([500.0], device=device),
        "context": rand(1, v.text_len, v.text_dim),
        "y": rand(1, v.y_dim, *LATENT),
        "clip_feature": rand(1, v.clip_len, v.clip_dim or 0),
    }


@torch.no_grad()
def run_ours(world: FantasyWorld, given: dict[str, Any]) -> torch.Tensor:
    """One forward of the plain video backbone."""
    return world(**given, cross_branch=False, predict_geometry=False).velocity


@torch.no_grad()
def run_theirs(other: WanTransformer3DModel, given: dict[str, Any]) -> torch.Tensor:
    """One forward of diffusers' model."""
    return other(
        hidden_states=torch.cat([given["latents"], given["y"]], dim=1),
        timestep=given["timestep"],
        encoder_hidden_states=given["context"],
        encoder_hidden_states_image=given["clip_feature"],
        return_dict=False,
    )[0]


def measure(blocks: int, pairs: int) -> Iterator[Row]:
    """Time, memory, FLOPs and the share of this machine's peak."""
    dtype = torch.bfloat16 if has_fast_bfloat16() else torch.float32
    label = f"1.3B backbone, {blocks} of 30 blocks, 1,170 tokens, {str(dtype).removeprefix('torch.')}"
    world = backbone(blocks, dtype)
    other, given = peer(world), inputs(world, dtype)
    with FlopCounterMode(display=False) as counter:
        ours = run_ours(world, given)
    theirs = run_theirs(other, given)
    error = float((ours.float() - theirs.float()).abs().max() / theirs.float().abs().max())
    times = paired(lambda: run_ours(world, given), lambda: run_theirs(other, given), pairs=pairs)
    tera, peak = counter.get_total_flops() / 1e12, matmul_peak(dtype)
    note = f"{pairs} pairs, largest difference {error:.1e} of the largest value"
    if dtype != torch.bfloat16:
        note += "; float32, because this processor has no bfloat16 products"
    del world, other, ours, theirs
    yield ratio_row(f"{label}: speed against diffusers", times, target=">= 1.0", note=note)
    yield _share(label, times[0], tera, peak)
    yield _memory(label, blocks, dtype)
    yield constant_flops()


def _share(label: str, times: Times, tera: float, peak: float) -> Row:
    achieved = 1000 * tera / times.cpu_s
    return Row(
        name=f"{label}: share of the matmul peak",
        value=achieved / peak,
        unit="of 1",
        details=f"{tera:.3g} TFLOP, {achieved:.3g} of {peak:.3g} GFLOP per second of processor time",
    )


def _memory(label: str, blocks: int, dtype: torch.dtype) -> Row:
    name = str(dtype).removeprefix("torch.")
    command = [sys.executable, "-m", "benchmarks.model_backbone", "--blocks", str(blocks), "--dtype", name]
    ours, theirs = (
        float(subprocess.run([*command, side], capture_output=True, text=True, check=True).stdout)
        for side in ("ours", "theirs")
    )
    return Row(
        name=f"{label}: peak memory, diffusers' over ours",
        value=theirs / ours,
        unit="x",
        target=">= 1.0",
        details=f"largest resident set of a process of its own: ours {ours:.2f} GiB, diffusers {theirs:.2f} GiB",
    )


def constant_flops() -> Row:
    """One guided step of the whole model (both branches, camera), counted on the meta device: caches against none."""
    with torch.device("meta"):
        world = FantasyWorld(wan21_fun_1_3b())
    for module in world.modules():  # rotary tables are made on the host; move them where all the rest is
        module._buffers.update({name: value.to("meta") for name, value in module.named_buffers(recurse=False)})
    given = inputs(world, torch.float32, "meta")
    frames, rows, columns = 4 * (LATENT[0] - 1) + 1, 8 * LATENT[1], 8 * LATENT[2]
    raw = {key: given[key] for key in ("context", "y", "clip_feature")}
    raw["plucker"] = RayMap(
        rays=torch.empty(1, frames, rows, columns, 6, device="meta"), convention=world.config.compat.plucker
    )
    with torch.no_grad():
        condition = world.encode_condition(**raw)
        with FlopCounterMode(display=False) as cached:
            world(given["latents"], given["timestep"], condition=condition, predict_geometry=False)
        with FlopCounterMode(display=False) as uncached:
            world(given["latents"], given["timestep"], **raw, predict_geometry=False)
    with_caches, without = cached.get_total_flops() / 1e12, uncached.get_total_flops() / 1e12
    return Row(
        name="whole 1.3B model, one pass at 1,170 tokens: FLOPs without the constant caches over with them",
        value=without / with_caches,
        unit="x",
        target=">= 1.05",
        details=f"{without:.3g} and {with_caches:.3g} TFLOP, counted, the same on every machine",
    )


@torch.no_grad()
def guided_step(blocks: int, pairs: int) -> Row:
    """The two passes of a guided step with `Conditioning` made once, against the same from raw inputs."""
    dtype = torch.bfloat16 if has_fast_bfloat16() else torch.float32
    world = backbone(blocks, dtype, control=True)
    given = inputs(world, dtype)
    latents, timestep = given.pop("latents"), given.pop("timestep")
    packed = torch.randn(1, 24, LATENT[0], 8 * LATENT[1], 8 * LATENT[2], generator=torch.Generator().manual_seed(2))
    prompts = [given.pop("context"), torch.zeros(1, world.config.video.text_len, world.config.video.text_dim)]
    options: dict[str, Any] = {"cross_branch": False, "predict_geometry": False}

    def conditions(cache: bool) -> list[Any]:
        return [
            world.encode_condition(context=prompt.to(dtype), control=packed, cache=cache, **given) for prompt in prompts
        ]

    made = conditions(True)
    world(latents, timestep, condition=made[0], **options)
    times = paired(
        lambda: [world(latents, timestep, condition=c, **options) for c in made],
        lambda: [world(latents, timestep, condition=c, **options) for c in conditions(False)],
        pairs=pairs,
    )
    return ratio_row(
        f"one guided step, {blocks} of 30 blocks, 1,170 tokens: constant caches against none",
        times,
        target=">= 1.05",
        note="control adapter, text and image keys and values" + ("" if blocks == 30 else "; few blocks flatter it"),
    )


def main(arguments: list[str] | None = None) -> None:
    """One side alone: print the largest resident set in GiB."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=("ours", "theirs"))
    parser.add_argument("--blocks", type=int, default=30)
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args(arguments)
    dtype = getattr(torch, options.dtype)
    world = backbone(options.blocks, dtype)
    given = inputs(world, dtype)
    if options.side == "ours":
        run_ours(world, given)
    else:
        other = peer(world)
        del world
        run_theirs(other, given)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2)


if __name__ == "__main__":
    main()
