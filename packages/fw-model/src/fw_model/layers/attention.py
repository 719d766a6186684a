"""One attention for the whole model, on whichever kernel the machine has.

Axes: b batch, q query tokens, k key tokens, h heads, d head width.
"""

import importlib.util
import os
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Backend = Literal["auto", "sdpa", "flash2", "flash3", "xformers"]

_PACKAGES = {"sdpa": "torch", "flash2": "flash_attn", "flash3": "flash_attn_interface", "xformers": "xformers"}
_MAX_FLASH_HEAD = 256
_MAX_SCORES = 2**25
"""Most attention scores (64 MB) that are written out rather than fused."""


class AttentionModule(nn.Module):
    """A module that attends; `FantasyWorld.set_attention_backend` sets its kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.backend: Backend = "auto"


def attention(
    q: Float[Tensor, "b q h d"], k: Float[Tensor, "b k h d"], v: Float[Tensor, "b k h d"], backend: Backend = "auto"
) -> Float[Tensor, "b q h d"]:
    """Return softmax(q k^T / sqrt(d)) v, per head, without a mask.

    `auto` takes flash-attention 3, then 2, for half-precision tensors on a GPU where they are installed, and torch's
    own attention otherwise. A backend asked for by name is used or refused with ValueError; it never falls back.
    """
    name = choose_backend(q.device, q.dtype, q.shape[-1]) if backend == "auto" else backend
    if name == "sdpa":
        return _products(q, k, v) if _favors_products(q, k) else _sdpa(q, k, v)
    if backend != "auto":
        check_backend(name)
        _check_tensor(name, q)
    return _KERNELS[name]()(q, k, v)


def choose_backend(device: torch.device, dtype: torch.dtype, width: int) -> str:
    """The backend that `auto` selects for tensors of this kind; `width` is the head width."""
    if device.type != "cuda" or not _fits_flash(dtype, width):
        return "sdpa"
    installed = available_backends()
    if "flash3" in installed and torch.cuda.get_device_capability(device)[0] == 9:
        return "flash3"
    return "flash2" if "flash2" in installed else "sdpa"


def available_backends() -> list[str]:
    """The backends whose packages are installed, `sdpa` first."""
    return list(_installed())


def check_backend(backend: str) -> None:
    """Raise ValueError, listing the available backends, unless `backend` is "auto" or installed."""
    if backend not in get_args(Backend):
        raise ValueError(f"Unknown attention backend {backend!r}; choose from {', '.join(get_args(Backend))}.")
    if backend != "auto" and backend not in available_backends():
        raise ValueError(
            f"Attention backend {backend!r} needs the package {_PACKAGES[backend]!r}, which is not installed. "
            f"Available here: {', '.join(available_backends())}."
        )


@lru_cache(maxsize=1)
def _installed() -> tuple[str, ...]:
    return tuple(name for name, package in _PACKAGES.items() if importlib.util.find_spec(package) is not None)


def _fits_flash(dtype: torch.dtype, width: int) -> bool:
    return dtype in (torch.float16, torch.bfloat16) and width <= _MAX_FLASH_HEAD and width % 8 == 0


def _check_tensor(name: str, q: Tensor) -> None:
    half_only = name in ("flash2", "flash3")
    if q.device.type != "cuda" or (half_only and not _fits_flash(q.dtype, q.shape[-1])):
        raise ValueError(
            f"Attention backend {name!r} runs on a GPU"
            + (", in float16 or bfloat16, with a head width divisible by 8 and at most 256" if half_only else "")
            + f"; it got {q.dtype} with head width {q.shape[-1]} on {q.device}. "
            "Use backend='auto' or 'sdpa', or change the model's dtype."
        )


def _favors_products(q: Tensor, k: Tensor) -> bool:
    """On a CPU torch's bfloat16 attention is slower than two matrix products, as long as the scores fit the caches."""
    small = q.shape[0] * q.shape[2] * q.shape[1] * k.shape[1] <= _MAX_SCORES
    return small and q.device.type == "cpu" and q.dtype == torch.bfloat16 and has_fast_bfloat16()


@lru_cache(maxsize=1)
def has_fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices natively (AVX512-BF16 or AMX); elsewhere float32 is far faster."""
    limited = os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL").upper() not in ("ALL", "DEFAULT") or (
        os.environ.get("ATEN_CPU_CAPABILITY", "").lower() in ("default", "avx2")
    )
    flags = (torch.cpu._is_avx512_bf16_supported(), torch.cpu._is_amx_tile_supported())
    return any(flags) and not limited


def _products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = (q * q.shape[-1] ** -0.5).transpose(1, 2) @ k.permute(0, 2, 3, 1)
    return (scores.softmax(-1) @ v.transpose(1, 2)).transpose(1, 2)


def _sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return out.transpose(1, 2)


def _flash2() -> Callable[..., Tensor]:
    return importlib.import_module("flash_attn").flash_attn_func


def _flash3() -> Callable[..., Tensor]:
    kernel = importlib.import_module("flash_attn_interface").flash_attn_func

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out: Any = kernel(q, k, v)
        return out[0] if isinstance(out, tuple) else out

    return run


def _xformers() -> Callable[..., Tensor]:
    return importlib.import_module("xformers.ops").memory_efficient_attention


_KERNELS: dict[str, Callable[[], Callable[..., Tensor]]] = {
    "flash2": _flash2,
    "flash3": _flash3,
    "xformers": _xformers,
}
