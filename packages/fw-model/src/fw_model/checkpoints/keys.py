"""Names of the parameters: ours, the released FantasyWorld files', and those of the video backbones we can start from.

Ours are the module tree of `FantasyWorld`. Every other layout is reached from them by one ordered list of rules; the
first rule that fits a name rewrites its front, and the rest stays as it is. So the mapping is total and its
inverse is a table over a model's own names.
"""

import re
from collections.abc import Callable, Iterable

from torch import nn

Replacement = str | Callable[[re.Match[str]], str]
Rules = list[tuple[str, Replacement]]

_ADAPTER: dict[str, str] = {"from_camera": "k_proj.group1", "from_video": "k_proj.group2", "to_shift": "v_proj.group2"}
_COUPLING: dict[str, str] = {
    "gamma_video": "gamma_m1",
    "gamma_geometry": "gamma_m2",
    "key_video": "cross_attn.m1_proj",
    "key_geometry": "cross_attn.m2_proj",
    "value_video": "cross_attn.values_m1_proj",
    "value_geometry": "cross_attn.values_m2_proj",
    "out_video": "cross_attn.out_m1_proj",
    "out_geometry": "cross_attn.out_m2_proj",
}


def to_released(name: str) -> str:
    """Our parameter name -> the name in a released `model.pth` (Wan2.1 and Wan2.2 alike)."""
    return _rewrite(name, _RELEASED)


def to_wan(name: str, pcb_blocks: int) -> str:
    """Our name of a video parameter -> the original Wan, VideoX-Fun and DiffSynth name."""
    released = to_released(name)
    rules: Rules = [
        (r"^IRGBlock\.(\d+)\.x_dit\.", lambda m: f"blocks.{pcb_blocks + int(m[1])}."),
        (r"^pipe\.dit\.", ""),
    ]
    return _rewrite(released, rules)


def to_diffusers(name: str, pcb_blocks: int) -> str:
    """Our name of a video parameter -> the name in diffusers' WanTransformer3DModel."""
    return _rewrite(to_wan(name, pcb_blocks), _DIFFUSERS)


def released_names(world: nn.Module) -> dict[str, str]:
    """Released name -> our name, for every parameter of a `FantasyWorld`."""
    return _inverse((name, to_released(name)) for name, _ in world.named_parameters())


def _inverse(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    table: dict[str, str] = {}
    for ours, theirs in pairs:
        if theirs in table:
            raise ValueError(f"Parameters {table[theirs]!r} and {ours!r} would both be called {theirs!r}.")
        table[theirs] = ours
    return table


def _rewrite(name: str, rules: Rules) -> str:
    for pattern, replacement in rules:
        new, count = re.subn(pattern, replacement, name, count=1)
        if count:
            return new
    return name


def _block(match: re.Match[str]) -> str:
    """Where a released file keeps the video block of this name."""
    return f"pipe.dit.blocks.{match['pcb']}." if match["pcb"] else f"IRGBlock.{match['irg']}.x_dit."


_BLOCK = r"^(?:pcb\.(?P<pcb>\d+)|irg\.(?P<irg>\d+)\.video)\."
_HEAD = r"^geometry\.(?P<head>depth|point)_head\."

_RELEASED: Rules = [
    (
        _BLOCK + r"camera_adapter\.(?P<part>\w+)",
        lambda m: f"{_block(m)}cross_attn.processor.{_ADAPTER[m['part']]}",
    ),
    (_BLOCK, _block),
    (r"^irg\.(\d+)\.frame\.", r"vggt.aggregator.frame_blocks.\1."),
    (r"^irg\.(\d+)\.all_frames\.", r"IRGBlock.\1.x_agg."),
    (r"^irg\.(\d+)\.coupling\.(\w+)", lambda m: f"IRGBlock.{m[1]}.bicross_attention.{_COUPLING[m[2]]}"),
    (r"^video\.time\.embed\.", "pipe.dit.time_embedding."),
    (r"^video\.time\.project\.", "pipe.dit.time_projection."),
    (r"^video\.image_embedding\.", "pipe.dit.img_emb.proj."),
    (r"^video\.", "pipe.dit."),
    (r"^pose_encoder\.(first|second)\.", r"camera_condition.pose_encoder.controlnet_encode_\1."),
    (r"^pose_encoder\.", "camera_condition.pose_encoder."),
    (r"^geometry\.bridge\.conv\.", "vggt.projection_head."),
    (r"^geometry\.time\.embed\.", "vggt.time_embedding."),
    (r"^geometry\.time\.project\.", "vggt.time_projection."),
    (r"^geometry\.tokens\.(camera|register)$", r"vggt.aggregator.\1_token"),
    (r"^geometry\.tokens\.from_poses\.", "vggt.aggregator.CamTokenProjector."),
    (r"^geometry\.camera_head\.empty_pose$", "vggt.camera_head.empty_pose_tokens"),
    (r"^geometry\.camera_head\.pose_modulation\.", "vggt.camera_head.poseLN_modulation."),
    (r"^geometry\.camera_head\.expand\.conv\.", "vggt.camera_head.camera_time_upsample.expand_channels."),
    (r"^geometry\.camera_head\.", "vggt.camera_head."),
    (_HEAD + r"streams\.(?P<i>\d)\.project\.", r"vggt.\g<head>_head.projects.\g<i>."),
    (_HEAD + r"streams\.(?P<i>\d)\.resize\.", r"vggt.\g<head>_head.resize_layers.\g<i>."),
    (
        _HEAD + r"streams\.(?P<i>\d)\.fuse_in\.",
        lambda m: f"vggt.{m['head']}_head.scratch.layer{int(m['i']) + 1}_rn.",
    ),
    (
        _HEAD + r"streams\.(?P<i>\d)\.upsample\.(?P<rest>.+)",
        lambda m: f"vggt.{m['head']}_head.temporal_upsamplers.{m['i']}." + _rewrite(m["rest"], _UPSAMPLER),
    ),
    (
        _HEAD + r"fusions\.(?P<i>\d)\.(?P<part>\w+)",
        lambda m: f"vggt.{m['head']}_head.scratch.refinenet{int(m['i']) + 1}." + _FUSION[m["part"]],
    ),
    (_HEAD + r"conv1\.", r"vggt.\g<head>_head.scratch.output_conv1."),
    (_HEAD + r"conv2\.", r"vggt.\g<head>_head.scratch.output_conv2.0."),
    (_HEAD + r"conv3\.", r"vggt.\g<head>_head.scratch.output_conv2.2."),
    (_HEAD, r"vggt.\g<head>_head."),
]

_UPSAMPLER: Rules = [
    (r"^conv_in\.", "conv2."),
    (r"^doublings\.(\d)\.", lambda m: f"decoder.upsamples.{2 * int(m[1])}."),
    (r"^residuals\.(\d)\.gamma$", lambda m: f"decoder.upsamples.{2 * int(m[1]) + 1}.residual.0.gamma"),
    (r"^residuals\.(\d)\.conv\.", lambda m: f"decoder.upsamples.{2 * int(m[1]) + 1}.residual.2."),
]

_FUSION: dict[str, str] = {"skip_unit": "resConfUnit1", "unit": "resConfUnit2", "out_conv": "out_conv"}

_ATTENTION: dict[str, str] = {
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "o": "to_out.0",
    "norm_q": "norm_q",
    "norm_k": "norm_k",
    "k_img": "add_k_proj",
    "v_img": "add_v_proj",
    "norm_k_img": "norm_added_k",
}
_IMAGE: dict[str, str] = {"0": "norm1", "1": "ff.net.0.proj", "3": "ff.net.2", "4": "norm2"}

_DIFFUSERS: Rules = [
    (r"^blocks\.(\d+)\.self_attn\.(\w+)", lambda m: f"blocks.{m[1]}.attn1.{_ATTENTION[m[2]]}"),
    (r"^blocks\.(\d+)\.cross_attn\.(\w+)", lambda m: f"blocks.{m[1]}.attn2.{_ATTENTION[m[2]]}"),
    (r"^blocks\.(\d+)\.norm3\.", r"blocks.\1.norm2."),
    (r"^blocks\.(\d+)\.ffn\.0\.", r"blocks.\1.ffn.net.0.proj."),
    (r"^blocks\.(\d+)\.ffn\.2\.", r"blocks.\1.ffn.net.2."),
    (r"^blocks\.(\d+)\.modulation$", r"blocks.\1.scale_shift_table"),
    (r"^text_embedding\.0\.", "condition_embedder.text_embedder.linear_1."),
    (r"^text_embedding\.2\.", "condition_embedder.text_embedder.linear_2."),
    (r"^time_embedding\.0\.", "condition_embedder.time_embedder.linear_1."),
    (r"^time_embedding\.2\.", "condition_embedder.time_embedder.linear_2."),
    (r"^time_projection\.1\.", "condition_embedder.time_proj."),
    (r"^img_emb\.proj\.(\d)\.", lambda m: f"condition_embedder.image_embedder.{_IMAGE[m[1]]}."),
    (r"^head\.head\.", "proj_out."),
    (r"^head\.modulation$", "scale_shift_table"),
]
