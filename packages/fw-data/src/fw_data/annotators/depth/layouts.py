"""Names of Depth Anything V2 tensors in the original files and in transformers, and the sizes behind a file's shapes.

Nothing is opened here. 0-based blocks whose output feeds the head: the original code's "hooks" plus one are
transformers' `out_indices`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

HEAD_DIM = 64
"""Width of an attention head in every size."""
OUT_INDICES = {12: (3, 6, 9, 12), 24: (5, 12, 18, 24)}
"""Blocks (1-based) that feed the head, by depth of the encoder."""


@dataclass(frozen=True, kw_only=True)
class DepthAnythingSizes:
    """Network dimensions from the shapes of a checkpoint."""

    width: int
    """Width of the encoder: 384 small, 768 base, 1024 large."""
    blocks: int
    """Depth of the encoder."""
    image_size: int
    """Side of the square that the table of positions was made for."""
    patch: int
    """Side of a patch in pixels."""
    neck: tuple[int, ...]
    """Widths of the four levels."""
    fusion: int
    """Common width of the fusion."""
    last: int
    """Width before the output."""


def is_original(names: Mapping[str, object] | set[str]) -> bool:
    """Whether names are those of the original files (`pretrained.`, `depth_head.`)."""
    return any(name.startswith("depth_head.") for name in names)


def to_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of either layout under the names of the published transformers files.

    Raises:
        ValueError: a name of the original layout that no rule knows.
    """
    if not is_original(state):
        return dict(state)
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        fused = re.fullmatch(r"pretrained\.blocks\.(\d+)\.attn\.qkv\.(weight|bias)", name)
        if fused:
            prefix = f"backbone.encoder.layer.{fused[1]}.attention.attention"
            for part, rows in zip(("query", "key", "value"), value.chunk(3), strict=True):
                renamed[f"{prefix}.{part}.{fused[2]}"] = rows.contiguous()
            continue
        refine = re.fullmatch(r"depth_head\.scratch\.refinenet(\d)\.(.+)", name)
        level = re.fullmatch(r"depth_head\.scratch\.layer(\d)_rn\.(.+)", name)
        if refine:
            tail = refine[2].replace("out_conv", "projection")
            tail = re.sub(r"resConfUnit(\d)\.conv(\d)", r"residual_layer\1.convolution\2", tail)
            renamed[f"neck.fusion_stage.layers.{4 - int(refine[1])}.{tail}"] = value
        elif level:
            renamed[f"neck.convs.{int(level[1]) - 1}.{level[2]}"] = value
        else:
            renamed[_rename(name)] = value
    return renamed


def as_called(state: Mapping[str, Tensor], wanted: set[str]) -> dict[str, Tensor]:
    """The same tensors with the attention's parts called as in `wanted`: transformers renamed them in version 5."""
    renamed = {}
    for name, value in state.items():
        for old, new in _ATTENTION:
            for given, other in ((old, new), (new, old)):
                if name not in wanted and name.replace(given, other) in wanted:
                    name = name.replace(given, other)
        renamed[name] = value
    return renamed


def sizes_of(shapes: Mapping[str, tuple[int, ...]]) -> DepthAnythingSizes:
    """Sizes of a checkpoint under transformers' names.

    Raises:
        ValueError: a tensor that every such checkpoint has is missing.
    """
    try:
        _, positions, width = shapes["backbone.embeddings.position_embeddings"]
        patch = shapes["backbone.embeddings.patch_embeddings.projection.weight"][-1]
        return DepthAnythingSizes(
            width=width,
            blocks=1 + max(int(name.split(".")[3]) for name in shapes if name.startswith("backbone.encoder.layer.")),
            image_size=patch * round((positions - 1) ** 0.5),
            patch=patch,
            neck=tuple(shapes[f"neck.convs.{level}.weight"][1] for level in range(4)),
            fusion=shapes["head.conv1.weight"][1],
            last=shapes["head.conv2.weight"][0],
        )
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"these are not the tensors of Depth Anything V2 ({error} is missing or of another shape); give the "
            "safetensors of Depth-Anything-V2 Small, Base or Large, original or transformers layout"
        ) from error


_ATTENTION = (
    ("attention.attention.query.", "attention.q_proj."),
    ("attention.attention.key.", "attention.k_proj."),
    ("attention.attention.value.", "attention.v_proj."),
    ("attention.output.dense.", "attention.o_proj."),
)
_RULES = (
    (r"pretrained\.(cls_token|mask_token)", r"backbone.embeddings.\1"),
    (r"pretrained\.pos_embed", "backbone.embeddings.position_embeddings"),
    (r"pretrained\.patch_embed\.proj\.(.+)", r"backbone.embeddings.patch_embeddings.projection.\1"),
    (r"pretrained\.blocks\.(\d+)\.(norm[12]\..+|mlp\.fc[12]\..+)", r"backbone.encoder.layer.\1.\2"),
    (r"pretrained\.blocks\.(\d+)\.attn\.proj\.(.+)", r"backbone.encoder.layer.\1.attention.output.dense.\2"),
    (r"pretrained\.blocks\.(\d+)\.ls([12])\.gamma", r"backbone.encoder.layer.\1.layer_scale\2.lambda1"),
    (r"pretrained\.norm\.(.+)", r"backbone.layernorm.\1"),
    (r"depth_head\.projects\.(\d)\.(.+)", r"neck.reassemble_stage.layers.\1.projection.\2"),
    (r"depth_head\.resize_layers\.(\d)\.(.+)", r"neck.reassemble_stage.layers.\1.resize.\2"),
    (r"depth_head\.scratch\.output_conv1\.(.+)", r"head.conv1.\1"),
    (r"depth_head\.scratch\.output_conv2\.0\.(.+)", r"head.conv2.\1"),
    (r"depth_head\.scratch\.output_conv2\.2\.(.+)", r"head.conv3.\1"),
)


def _rename(name: str) -> str:
    for pattern, replacement in _RULES:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, replacement, name)
    raise ValueError(f"{name!r} is no tensor of Depth Anything V2; the file is something else, or newer than this")
