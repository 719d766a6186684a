"""Check golden component files (one building block each) against the module or function that does the same here.

`weights.*` in a file are a module's parameters under their official names; they are loaded through the mapping of
`fw_model.checkpoints.keys`, so the files test that too.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from safetensors.torch import load_file
from tests.parity.golden_conventions import geometry_utils, plucker, pose_encoding, scheduler
from torch import Tensor, nn

from fw_model.checkpoints.keys import to_released
from fw_model.config import CameraConfig, Compat, GeometryConfig
from fw_model.geometry.block import GeometryBlock, GeometryStep
from fw_model.geometry.camera_head import CameraHead
from fw_model.geometry.dpt import DPTHead, position_embedding, position_grid
from fw_model.geometry.temporal import TemporalUpsampler
from fw_model.geometry.tokens import PoseTokens
from fw_model.layers.rope import PlaneRope, Rotation, VideoRope, rotate_halves, rotate_pairs
from fw_model.model.irg import BidirectionalCrossAttention, CrossBranchStep
from fw_model.wan.blocks import ContextTokens, VideoStep, WanBlock
from fw_model.wan.camera_adapter import PoseEncoder, halve_time
from fw_model.wan.embeddings import OutputHead, image_embedding

Tensors = dict[str, Tensor]
Pair = tuple[str, Tensor, Tensor]

SPECIALS = 5
SMALL = 1e-3
SMALL_CLIP = 3e-3
CPU = torch.device("cpu")


def component_pairs(folder: Path) -> Iterator[Pair]:
    """Compare every component file of a folder. Raises ValueError for a file without a check."""
    for path in sorted(folder.glob("*.safetensors")):
        if path.stem not in CHECKS:
            raise ValueError(f"{path}: there is no check for this component; known are {', '.join(CHECKS)}")
        theirs = {key: value.clone() for key, value in load_file(path).items()}
        for name, ours in CHECKS[path.stem](theirs).items():
            yield f"{path.stem}/{name}", ours, theirs[name]


def load(module: nn.Module, ours: str, official: str, weights: Tensors, prefix: str = "weights.") -> nn.Module:
    """Load a component's weights strictly; `ours` and `official` are the prefixes it would have in a whole model."""
    state = {}
    for name in module.state_dict():
        released = to_released(ours + name)
        if not released.startswith(official):
            raise ValueError(f"{ours + name} is released as {released}, not under {official}")
        state[name] = weights[prefix + released.removeprefix(official)]
    given = {key for key in weights if key.startswith(prefix)}
    if len(given) != len(state):
        raise ValueError(f"{official}: {len(given)} weights in the file, {len(state)} in the module")
    module.load_state_dict(state, strict=True)
    return module.eval()


@torch.no_grad()
def rope(t: Tensors) -> Tensors:
    """Tables, and rotated tensors of the video, cross-branch and geometry embeddings."""
    ours: Tensors = {}
    for width in (128, 96, 24, 20, 14, 12):
        tables = VideoRope(width).tables
        for axis, letter in enumerate("fhw"):
            cos, sin = tables(axis, 32)
            ours |= {f"table.hd{width}.{letter}.cos": cos, f"table.hd{width}.{letter}.sin": sin}
    grid = tuple(int(n) for n in t["grid_fhw"])
    for name, width, specials in (
        ("video.hd20", 20, 0),
        ("video.hd14", 14, 0),
        ("video.hd128", 128, 0),
        ("geo3d.hd12", 12, SPECIALS),
        ("geo3d.hd96", 96, SPECIALS),
    ):
        x = rearrange(t[f"{name}.x"], "b l (h d) -> b l h d", d=width)
        ours[f"{name}.y"] = rotate_pairs(x, VideoRope(width)(*grid, num_special_tokens=specials)).flatten(2)
    for width in (64, 12):
        plane = PlaneRope(width)
        cos, sin = plane.tables(0, 5)
        ours |= {f"rope2d.hd{width}.cos": cos.repeat(1, 2), f"rope2d.hd{width}.sin": sin.repeat(1, 2)}
        x = rearrange(t[f"rope2d.hd{width}.x"], "b h l d -> b l h d")
        rotated = rotate_halves(x, plane(3, 4, SPECIALS))
        ours[f"rope2d.hd{width}.y"] = rearrange(rotated, "b l h d -> b h l d")
    return ours


@torch.no_grad()
def bicross(t: Tensors) -> Tensors:
    """Bidirectional cross-attention, with and without rotation, and on small inputs (the epsilon)."""
    video, geometry = t["in.video"], t["in.geo"]
    module = BidirectionalCrossAttention(video_dim=30, geometry_dim=16, dim=28, heads=2)
    load(module, "irg.0.coupling.", "IRGBlock.0.bicross_attention.", t)
    rotary = VideoRope(14)
    step = CrossBranchStep(rotary(3, 2, 3), rotary(3, 2, 3, num_special_tokens=SPECIALS))
    unturned = [Rotation(torch.ones_like(r.cos), torch.zeros_like(r.sin)) for r in (step.video, step.geometry)]
    still = CrossBranchStep(video=unturned[0], geometry=unturned[1])
    ours = {
        "in.freqs_video.cos": step.video.cos[:, None],
        "in.freqs_video.sin": step.video.sin[:, None],
        "in.freqs_geo.cos": step.geometry.cos[:, None],
        "in.freqs_geo.sin": step.geometry.sin[:, None],
    }
    ours["out.video"], ours["out.geo"] = module(video, geometry, step)
    ours["out_norope.video"], ours["out_norope.geo"] = module(video, geometry, still)
    ours["out_small.video"], ours["out_small.geo"] = module(video * 1e-3, geometry * 1e-3, step)
    deltas: list[Tensor] = []
    for layer in (module.out_video, module.out_geometry):
        layer.register_forward_hook(_collect(deltas))
    module(video, geometry, step)
    ours["mid.delta_video"], ours["mid.delta_geo"] = deltas
    return ours


@torch.no_grad()
def blocks(t: Tensors) -> Tensors:
    """Video block, geometry block, CLIP embedding and output head."""
    return _wan_block(t) | _geometry_block(t) | _embedding_and_head(t)


def _wan_block(t: Tensors) -> Tensors:
    block = WanBlock(dim=28, heads=2, ffn_dim=40, eps=1e-6, image=True, camera_dim=15)
    load(block, "pcb.0.", "pipe.dit.blocks.0.", t, "wan.weights.")
    context = ContextTokens(t["wan.in.context"][:, 257:], t["wan.in.context"][:, :257])
    step = VideoStep(t["wan.in.t_mod"], VideoRope(14)(2, 2, 3), t["wan.in.plucker_fea"])
    plain = step._replace(camera=None)
    attended: list[Tensor] = []
    hook = block.self_attn.register_forward_hook(_collect(attended))
    x = t["wan.in.x"]
    partial = block.apply_attention(x, step, context)
    hook.remove()
    rows = (block.modulation + step.modulation).unbind(1)
    return {
        "wan.mid.self_attn": attended[0],
        "wan.mid.partial": partial,
        "wan.mid.shift_mlp": rows[3][:, None],
        "wan.mid.scale_mlp": rows[4][:, None],
        "wan.mid.gate_mlp": rows[5][:, None],
        "wan.out": block(x, step, context),
        "wan.out_plain": block(x, plain, context),
        "wan.out_zero_plucker": block(x, plain, context),
        "wan.out_small": block(x * 2e-3, step, context),
    }


def _geometry_block(t: Tensors) -> Tensors:
    block = GeometryBlock(width=16, heads=2, compat=Compat.released())
    load(block, "irg.0.frame.", "vggt.aggregator.frame_blocks.0.", t, "geo.weights.")
    x, e0 = t["geo.in.x"], t["geo.in.e0"]
    rotation = PlaneRope(8)(2, 3, SPECIALS)
    frame = GeometryStep(e0.expand(3, -1, -1), rotation)
    everywhere = GeometryStep(e0, Rotation(rotation.cos.repeat(3, 1), rotation.sin.repeat(3, 1)))
    bare = x + block.ls1(block.attn(block.norm1(x), rotation))
    return {
        "geo.frame.partial": block.apply_attention(x, frame),
        "geo.frame.out": block(x, frame),
        "geo.frame.out_small": block(x * 3e-3, frame),
        "geo.global.out": block(x.flatten(0, 1)[None], everywhere),
        "geo.noe0.out": block.apply_mlp(bare, None),
    }


def _embedding_and_head(t: Tensors) -> Tensors:
    embed = load(image_embedding(8, 28), "video.image_embedding.", "pipe.dit.img_emb.", t, "img_emb.weights.")
    head = load(OutputHead(28, 64, 1e-6), "video.head.", "pipe.dit.head.", t, "head.weights.")
    clip, x, time = t["img_emb.in.clip"], t["head.in.x"], t["head.in.t_emb"]
    return {
        "img_emb.out": embed(clip),
        "head.out": head(x, time),
        "img_emb.out_small": embed(clip * SMALL_CLIP),
        "head.out_small": head(x * SMALL, time),
    }


@torch.no_grad()
def cam_token_projector(t: Tensors) -> Tensors:
    """Camera tokens from known poses, padded at the end as released."""
    module = load(PoseTokens(8, "end"), "geometry.tokens.from_poses.", "vggt.aggregator.CamTokenProjector.", t)
    return {"out.tokens": module(t["in.pose_enc"]).flatten(0, 1)[:, None]}


@torch.no_grad()
def camera_head(t: Tensors) -> Tensors:
    """Expanded tokens and every refinement."""
    config = GeometryConfig(width=16, heads=2, dpt_taps=(0, 0, 0, 0), camera_trunk=2, camera_heads=2)
    head = CameraHead(config, Compat.released())
    load(head, "geometry.camera_head.", "vggt.camera_head.", t)
    seen: dict[str, list[Any]] = {"expand": [], "embed": [], "trunk": [], "delta": []}
    hooks = [
        head.expand.register_forward_hook(lambda _m, _i, out: seen["expand"].append(out)),
        head.embed_pose.register_forward_pre_hook(lambda _m, args: seen["embed"].append(args[0])),
        head.trunk[0].register_forward_pre_hook(lambda _m, args: seen["trunk"].append(args[0])),
        head.pose_branch.register_forward_hook(lambda _m, _i, out: seen["delta"].append(out)),
    ]
    camera = t["in.tokens"][:, :, 0]
    poses = head(camera)
    for hook in hooks:
        hook.remove()
    expanded = seen["expand"][0]
    ours = {
        "mid.upsampled_tokens": expanded,
        "mid.pose_tokens": torch.cat([head.token_norm(camera[:, :1]), expanded], dim=1),
    }
    for k, pose in enumerate(poses):
        ours |= {
            f"mid.embed_input.{k}": seen["embed"][k],
            f"mid.trunk_input.{k}": seen["trunk"][k],
            f"mid.delta.{k}": seen["delta"][k],
            f"out.pose_enc_iter.{k}": pose,
        }
    return ours | {f"out_small.pose_enc_iter.{k}": pose for k, pose in enumerate(head(camera * 3e-3))}


@torch.no_grad()
def dpt_head(t: Tensors) -> Tensors:
    """Both heads, every stream, and the position embedding."""
    ours: Tensors = {}
    taps = tuple(t[f"in.tokens.{layer}"][:, :, SPECIALS:] for layer in (3, 2, 1, 0))
    config = GeometryConfig(width=8, heads=2, dpt_taps=(3, 2, 1, 0), dpt_features=8, dpt_channels=(4, 8, 8, 8))
    heads = {
        "depth": DPTHead(config, out=1, activation="exp"),
        "point": DPTHead(config, out=3, activation="inverse_log"),
    }
    for name, head in heads.items():
        load(head, f"geometry.{name}_head.", f"vggt.{name}_head.", t, f"{name}.weights.")
        head.chunk_frames = None
        seen: Tensors = {}
        for i in range(4):
            head.get_submodule(f"streams.{i}.resize").register_forward_hook(_keep(seen, f"{name}.reassembled.{i}"))
            head.get_submodule(f"streams.{i}.upsample").register_forward_hook(_keep(seen, f"{name}.upsampled.{i}"))
        head.conv1.register_forward_hook(_keep(seen, f"{name}.fused"))
        result = head(taps, 2, 2)
        ours |= dict(seen) | {f"{name}.out.pred": result.value, f"{name}.out.conf": result.confidence}
        if name == "point":
            head(tuple(tap * 3e-3 for tap in taps), 2, 2)
            ours["point.reassembled_small.3"] = seen["point.reassembled.3"]
    wide, narrow = position_grid(5, 3, 5 / 3, CPU), position_grid(4, 4, 1.75, CPU)
    return ours | {
        "uv.grid_w5_h3": wide,
        "uv.embed_c16": position_embedding(wide, 16),
        "uv.grid_w4_h4_aspect1.75": narrow,
        "uv.embed_c8_aspect1.75": position_embedding(narrow, 8),
    }


@torch.no_grad()
def pose_encoder_ds8(t: Tensors) -> Tensors:
    """Pose encoder at the official unshuffle factor, and the halving of time."""
    config = CameraConfig(adapter_blocks=1, feature_dim=10, in_channels=4)
    module = load(PoseEncoder(config, 12), "pose_encoder.", "camera_condition.pose_encoder.", t)
    seen: Tensors = {}
    for name in ("first", "second", "patch_embedding"):
        module.get_submodule(name).register_forward_hook(_keep(seen, f"mid.{name.removesuffix('_embedding')}"))
    ours = {"out.plucker_fea": module(t["in.plucker"])} | dict(seen)
    ours["out_small.plucker_fea"] = module(t["in.plucker"] * 1e-3)
    return ours | {f"compress_time.n{n}.y": halve_time(t[f"compress_time.n{n}.x"][None])[0] for n in (9, 5, 4)}


@torch.no_grad()
def temporal_upsampler(t: Tensors) -> Tensors:
    """Every stage of the temporal up-sampler, in one call."""
    module = TemporalUpsampler(6)
    ours = "geometry.depth_head.streams.0.upsample."
    load(module, ours, "vggt.depth_head.temporal_upsamplers.0.", t)
    seen: Tensors = {}
    for i in range(2):
        module.doublings[i].register_forward_hook(_keep(seen, f"mid.after_double.{i}"))
        module.residuals[i].register_forward_hook(_keep(seen, f"mid.after_residual.{i}"))
    return {"out.y": module(t["in.x"])[0]} | dict(seen)


def _collect(outputs: list[Tensor]) -> Callable[..., None]:
    def hook(_module: nn.Module, _args: Any, out: Any) -> None:
        outputs.append(out)

    return hook


def _keep(seen: Tensors, name: str) -> Callable[..., None]:
    def hook(_module: nn.Module, _args: Any, out: Any) -> None:
        seen[name] = out[0] if isinstance(out, tuple) else out

    return hook


CHECKS: dict[str, Callable[[Tensors], Tensors]] = {
    "bicross": bicross,
    "blocks": blocks,
    "cam_token_projector": cam_token_projector,
    "camera_head": camera_head,
    "dpt_head": dpt_head,
    "geometry_utils": geometry_utils,
    "plucker": plucker,
    "pose_encoder_ds8": pose_encoder_ds8,
    "pose_encoding": pose_encoding,
    "rope": rope,
    "scheduler": scheduler,
    "temporal_upsampler": temporal_upsampler,
}
