"""Names of the same tensors in different projects: renaming of state dicts without file access.

Each function takes a state dict in any known layout of its kind and returns the layout of diffusers or transformers;
a dict in that layout is returned unchanged. A name that fits no rule is an error, never dropped.
"""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

Rules = Iterable[tuple[str, str]]


def vae_to_diffusers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Original Wan VAE (``encoder.downsamples.N``; DiffSynth adds ``model.``) to ``AutoencoderKLWan``."""
    state = {key.removeprefix("model."): value for key, value in state.items()}
    if any(key.startswith("encoder.down_blocks.") for key in state):
        return state
    stages = _upsample_stages(state)
    renamed = {}
    for key, value in state.items():
        match = re.fullmatch(r"decoder\.upsamples\.(\d+)\.(.+)", key)
        if match:
            key = f"decoder.up_blocks.{stages[int(match[1])]}.{match[2]}"
        renamed[_rename(key, _VAE_RULES, "Wan VAE")] = value
    return renamed


def umt5_to_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Original Wan UMT5 encoder (``blocks.N.attn.q``) to ``UMT5EncoderModel``."""
    if any(key.startswith("encoder.block.") for key in state):
        renamed = dict(state)
    else:
        renamed = {_rename(key, _UMT5_RULES, "UMT5 encoder"): value for key, value in state.items()}
    # one embedding under two names, whichever of them the file holds
    embedding = renamed.get("shared.weight", renamed.get("encoder.embed_tokens.weight"))
    if embedding is not None:
        renamed["shared.weight"] = renamed["encoder.embed_tokens.weight"] = embedding
    return renamed


def clip_to_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Original Wan CLIP (``visual.transformer.N``) to ``CLIPVisionModel``; the text tower is left out."""
    if any(key.startswith("vision_model.") for key in state):
        return {key: value for key, value in state.items() if key.startswith("vision_model.")}
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        key = key.removeprefix("model.")
        if key.startswith("textual.") or key in ("log_scale", "visual.head"):
            continue
        if ".attn.to_qkv." in key:
            for part, rows in zip(("q", "k", "v"), value.chunk(3), strict=True):
                name = _rename(key.replace("attn.to_qkv", f"attn.to_{part}"), _CLIP_RULES, "CLIP vision")
                renamed[name] = rows.clone()
            continue
        name = _rename(key, _CLIP_RULES, "CLIP vision")
        if name.endswith("class_embedding"):
            value = value.flatten()
        elif name.endswith("position_embedding.weight"):
            value = value.squeeze(0)
        renamed[name] = value
    return renamed


_VAE_RULES: Rules = (
    (r"conv1\.", "quant_conv."),
    (r"conv2\.", "post_quant_conv."),
    (r"(encoder|decoder)\.conv1\.", r"\1.conv_in."),
    (r"(encoder|decoder)\.head\.0\.", r"\1.norm_out."),
    (r"(encoder|decoder)\.head\.2\.", r"\1.conv_out."),
    (r"(encoder|decoder)\.middle\.1\.", r"\1.mid_block.attentions.0."),
    (r"(encoder|decoder)\.middle\.0\.residual\.", r"\1.mid_block.resnets.0.residual."),
    (r"(encoder|decoder)\.middle\.2\.residual\.", r"\1.mid_block.resnets.1.residual."),
    (r"encoder\.downsamples\.(\d+)\.", r"encoder.down_blocks.\1."),
    (r"(.*)\.residual\.0\.", r"\1.norm1."),
    (r"(.*)\.residual\.2\.", r"\1.conv1."),
    (r"(.*)\.residual\.3\.", r"\1.norm2."),
    (r"(.*)\.residual\.6\.", r"\1.conv2."),
    (r"(.*)\.shortcut\.", r"\1.conv_shortcut."),
)

_UMT5_RULES: Rules = (
    (r"token_embedding\.", "shared."),
    (r"norm\.", "encoder.final_layer_norm."),
    (r"blocks\.(\d+)\.norm1\.", r"encoder.block.\1.layer.0.layer_norm."),
    (r"blocks\.(\d+)\.norm2\.", r"encoder.block.\1.layer.1.layer_norm."),
    (r"blocks\.(\d+)\.attn\.([qkvo])\.", r"encoder.block.\1.layer.0.SelfAttention.\2."),
    (r"blocks\.(\d+)\.pos_embedding\.embedding\.", r"encoder.block.\1.layer.0.SelfAttention.relative_attention_bias."),
    (r"blocks\.(\d+)\.ffn\.gate\.0\.", r"encoder.block.\1.layer.1.DenseReluDense.wi_0."),
    (r"blocks\.(\d+)\.ffn\.fc1\.", r"encoder.block.\1.layer.1.DenseReluDense.wi_1."),
    (r"blocks\.(\d+)\.ffn\.fc2\.", r"encoder.block.\1.layer.1.DenseReluDense.wo."),
)

_CLIP_RULES: Rules = (
    (r"visual\.cls_embedding$", "vision_model.embeddings.class_embedding"),
    (r"visual\.pos_embedding$", "vision_model.embeddings.position_embedding.weight"),
    (r"visual\.patch_embedding\.", "vision_model.embeddings.patch_embedding."),
    (r"visual\.pre_norm\.", "vision_model.pre_layrnorm."),
    (r"visual\.post_norm\.", "vision_model.post_layernorm."),
    (r"visual\.transformer\.(\d+)\.norm1\.", r"vision_model.encoder.layers.\1.layer_norm1."),
    (r"visual\.transformer\.(\d+)\.norm2\.", r"vision_model.encoder.layers.\1.layer_norm2."),
    (r"visual\.transformer\.(\d+)\.attn\.to_([qkv])\.", r"vision_model.encoder.layers.\1.self_attn.\2_proj."),
    (r"visual\.transformer\.(\d+)\.attn\.proj\.", r"vision_model.encoder.layers.\1.self_attn.out_proj."),
    (r"visual\.transformer\.(\d+)\.mlp\.0\.", r"vision_model.encoder.layers.\1.mlp.fc1."),
    (r"visual\.transformer\.(\d+)\.mlp\.2\.", r"vision_model.encoder.layers.\1.mlp.fc2."),
)


def _rename(key: str, rules: Rules, kind: str) -> str:
    """Apply every rule that fits from the start of the name; at least one must, unless the name needs none."""
    new = key
    for pattern, replacement in rules:
        new = re.sub(f"^{pattern}", replacement, new)
    if new == key and not re.match(r"decoder\.up_blocks\.", key):
        raise ValueError(
            f"{key!r} is not the name of a {kind} tensor; the file holds another model, or has a newer layout."
        )
    return new


def _upsample_stages(state: Mapping[str, Tensor]) -> dict[int, str]:
    """Flat index of the decoder's up-sampling list -> ``S.resnets.K`` or ``S.upsamplers.0``."""
    found = {(int(m[1]), m[2]) for key in state if (m := re.match(r"decoder\.upsamples\.(\d+)\.(\w+)", key))}
    resampling = {index for index, part in found if part in ("resample", "time_conv")}
    names, stage, within = {}, 0, 0
    for index in range(max((i for i, _ in found), default=-1) + 1):
        if index in resampling:
            names[index] = f"{stage}.upsamplers.0"
            stage, within = stage + 1, 0
        else:
            names[index] = f"{stage}.resnets.{within}"
            within += 1
    return names
