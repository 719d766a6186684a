"""The layers of Wan's video autoencoder, run from diffusers' modules with less work and fewer copies; no gradients.

The same function as ``AutoencoderKLWan``, to rounding, in chunks of time with the last frames remembered:

- tensors are channels-last-3d throughout, so 1 x 1 and temporal convolutions are matrix products without copies;
- before the first frame there is nothing, so the kernel's taps that would see it are left out, not fed with zeros: the
  first frame costs a third;
- nearest upsampling and the 3 x 3 convolution after it are one 2 x 2 convolution of the small image for each of the
  four places in an output block, 4/9 of the products;
- the convolution pads by itself; normalization and activation work in place.

Axes: b batch, c channels, t frames of a chunk, h w rows and columns, n = b t h w.
"""

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

Memory = dict[nn.Module, Tensor]
"""The last input frames of a layer, which its kernel reaches back to. A clip starts with an empty cache."""

_TINY = 1e-12


def run_encoder(encoder: Any, x: Tensor, memory: Memory) -> Tensor:
    """One chunk (1 frame, then 4 at a time) to latent statistics, before ``quant_conv``."""
    x = causal_conv(encoder.conv_in, x, memory)
    for layer in encoder.down_blocks:
        x = downsample(layer, x, memory) if hasattr(layer, "resample") else residual_block(layer, x, memory)
    x = middle(encoder.mid_block, x, memory)
    return causal_conv(encoder.conv_out, norm_silu(encoder.norm_out, x), memory)


def run_decoder(decoder: Any, x: Tensor, memory: Memory) -> Tensor:
    """One latent frame to 1 frame (the clip's first) or 4."""
    x = middle(decoder.mid_block, causal_conv(decoder.conv_in, x, memory), memory)
    for stage in decoder.up_blocks:
        for block in stage.resnets:
            x = residual_block(block, x, memory)
        for layer in stage.upsamplers or []:
            x = upsample(layer, x, memory)
    return causal_conv(decoder.conv_out, norm_silu(decoder.norm_out, x), memory)


def middle(block: Any, x: Tensor, memory: Memory) -> Tensor:
    """Residual block, attention, residual block."""
    x = residual_block(block.resnets[0], x, memory)
    for attention, residual in zip(block.attentions, block.resnets[1:], strict=True):
        x = residual_block(residual, frame_attention(attention, x), memory)
    return x


def residual_block(block: Any, x: Tensor, memory: Memory) -> Tensor:
    """Two normalized, activated convolutions beside a shortcut."""
    y = causal_conv(block.conv1, norm_silu(block.norm1, x), memory)
    y = causal_conv(block.conv2, norm_silu(block.norm2, y), memory)
    return y.add_(x if isinstance(block.conv_shortcut, nn.Identity) else pointwise(block.conv_shortcut, x))


def causal_conv(conv: nn.Conv3d, x: Tensor, memory: Memory) -> Tensor:
    """A 3 x 3 x 3 convolution that sees the present and the two frames before; taps before the clip are left out."""
    reach = conv.weight.shape[2] - 1
    past = memory.get(conv)
    joined = x if past is None else torch.cat([past, x], dim=2)
    have = joined.shape[2] - x.shape[2]
    memory[conv] = joined[:, :, -reach:].clone()
    parts = []
    for frame in range(min(reach - have, x.shape[2])):  # the first frames of a clip, each with the taps it has
        taps = have + frame + 1
        parts.append(_spatial(conv, joined[:, :, :taps], conv.weight[:, :, -taps:]))
    if joined.shape[2] > reach:
        parts.append(_spatial(conv, joined, conv.weight))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def norm_silu(norm: Any, x: Tensor) -> Tensor:
    """``silu(x / |x| sqrt(c) gamma)`` with the norm over the channels."""
    return F.silu(_normalized(norm, x), inplace=True)


def pointwise(conv: nn.Conv2d | nn.Conv3d, x: Tensor) -> Tensor:
    """A convolution of kernel 1."""
    return F.linear(x.movedim(1, -1), conv.weight.flatten(1), conv.bias).movedim(-1, 1)


def frame_attention(block: Any, x: Tensor) -> Tensor:
    """Attention of one head inside each frame, added to its input."""
    tokens = rearrange(_normalized(block.norm, x), "b c t h w -> (b t) (h w) c")
    q, k, v = F.linear(tokens, block.to_qkv.weight.flatten(1), block.to_qkv.bias)[:, None].chunk(3, dim=-1)
    mixed = F.scaled_dot_product_attention(q, k, v)[:, 0]
    out = F.linear(mixed, block.proj.weight.flatten(1), block.proj.bias)
    return rearrange(out, "(b t) (h w) c -> b c t h w", b=x.shape[0], h=x.shape[3]) + x


def downsample(layer: Any, x: Tensor, memory: Memory) -> Tensor:
    """Halve rows and columns; in layers that do so, halve the frames too, except a clip's first one."""
    conv = layer.resample[1]
    frames = F.pad(_as_frames(x), (0, 1, 0, 1))
    y = _as_clip(F.conv2d(frames, conv.weight, conv.bias, stride=2), x.shape[0])
    if layer.mode != "downsample3d":
        return y
    past = memory.get(layer)
    memory[layer] = y[:, :, -1:].clone()
    if past is None:
        return y
    joined = torch.cat([past, y], dim=2)
    count = y.shape[2] // 2
    return _temporal(layer.time_conv, [joined[:, :, tap : tap + 2 * count - 1 : 2] for tap in range(3)])


def upsample(layer: Any, x: Tensor, memory: Memory) -> Tensor:
    """Double rows and columns; in layers that do so, double the frames too, except a clip's first one."""
    if layer.mode == "upsample3d":
        x = _doubled_frames(layer, x, memory)
    return _doubled_image(layer.resample[1], x)


def _doubled_frames(layer: Any, x: Tensor, memory: Memory) -> Tensor:
    past = memory.get(layer)
    if past is None:  # the first frame is not doubled, and later frames do not see it
        memory[layer] = x[:, :, :0]
        return x
    count = x.shape[2]
    joined = torch.cat([past.new_zeros(*x.shape[:2], 2 - past.shape[2], *x.shape[3:]), past, x], dim=2)
    memory[layer] = joined[:, :, -2:].clone()
    pairs = _temporal(layer.time_conv, [joined[:, :, tap : tap + count] for tap in range(3)])
    return rearrange(pairs.movedim(1, -1), "b t h w (two c) -> b (t two) h w c", two=2).movedim(-1, 1)


def _doubled_image(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Nearest upsampling by two, then ``conv`` (3 x 3, padding 1)."""
    frames = _as_frames(x)
    many, _, rows, columns = frames.shape
    width = conv.weight.shape[0]
    weight = _places(_places(conv.weight.float(), -2), -1)
    weight = rearrange(weight, "q p o i y x -> (p q o) i y x").to(x.dtype)
    weight = weight.contiguous(memory_format=torch.channels_last)
    bias = None if conv.bias is None else conv.bias.repeat(4)
    placed = F.conv2d(frames, weight, bias, padding=1).movedim(1, -1).unflatten(-1, (2, 2, width))
    out = placed.new_empty(many, rows, 2, columns, 2, width)
    for p in range(2):
        for q in range(2):
            out[:, :, p, :, q] = placed[:, p : p + rows, q : q + columns, p, q]
    return _as_clip(rearrange(out, "n h p w q c -> n c (h p) (w q)"), x.shape[0])


def _places(weight: Tensor, axis: int) -> Tensor:
    """A kernel of 3 along `axis` over doubled pixels, as kernels of 2 over the pixels: [2 places, ...]."""
    a, b, c = weight.unbind(axis)
    return torch.stack([torch.stack([a, b + c], axis), torch.stack([a + b, c], axis)])


def _spatial(conv: nn.Conv3d, x: Tensor, weight: Tensor) -> Tensor:
    weight = weight.contiguous(memory_format=torch.channels_last_3d)
    if x.device.type == "cpu" and x.dtype == torch.float32 and torch.backends.mkldnn.is_available():
        # left to itself, torch takes a much slower kernel for small images
        return torch.ops.aten.mkldnn_convolution(x, weight, conv.bias, [0, 1, 1], [1, 1, 1], [1, 1, 1], 1)
    return F.conv3d(x, weight, conv.bias, padding=(0, 1, 1))


def _temporal(conv: nn.Conv3d, taps: list[Tensor]) -> Tensor:
    """A 3 x 1 x 1 convolution as a sum of matrix products, one for each frame that it sees."""
    rows = [tap.movedim(1, -1) for tap in taps]
    out = F.linear(rows[0].reshape(-1, conv.in_channels), conv.weight[:, :, 0].flatten(1), conv.bias)
    for k in (1, 2):
        out.addmm_(rows[k].reshape(-1, conv.in_channels), conv.weight[:, :, k].flatten(1).T)
    return out.unflatten(0, rows[0].shape[:-1]).movedim(-1, 1)


def _normalized(norm: Any, x: Tensor) -> Tensor:
    """A new tensor; the norm itself in float32."""
    rows = x.movedim(1, -1)
    length = torch.linalg.vector_norm(rows, dim=-1, keepdim=True, dtype=torch.float32)
    unit = (rows / length.clamp_min_(_TINY)).to(x.dtype)
    return unit.mul_(norm.gamma.flatten() * norm.scale).movedim(-1, 1)


def _as_frames(x: Tensor) -> Tensor:
    return x.movedim(2, 1).flatten(0, 1).contiguous(memory_format=torch.channels_last)


def _as_clip(frames: Tensor, batch: int) -> Tensor:
    return frames.unflatten(0, (batch, -1)).movedim(1, 2)
