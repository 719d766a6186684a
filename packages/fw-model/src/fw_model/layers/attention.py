"""One attention for the whole model, on the fastest kernel that works on the machine.

Axes: b batch, q query tokens, k key tokens, h heads, d head width.
"""

import importlib.util
import logging
import os
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Backend = Literal["auto", "sdpa", "flash2", "flash3", "flash4", "xformers"]

_PACKAGES = {
    "sdpa": "torch",
    "flash2": "flash_attn",
    "flash3": "flash_attn_interface",
    "flash4": "flash_attn.cute",
    "xformers": "xformers",
}
_FLASH = ("flash4", "flash3", "flash2")
"""Backends that `auto` tries, fastest first."""
_MAX_FLASH_HEAD = 256
_MAX_SCORES = 2**25
"""Most attention scores (64 MB) that are written out rather than fused."""
_LOG = logging.getLogger(__name__)
_chosen: dict[tuple[Any, ...], str] = {}
"""Device, type and shapes -> the backend that worked for them in `auto`."""
_warned: set[str] = set()


class AttentionModule(nn.Module):
    """A module that attends; `FantasyWorld.set_attention_backend` sets its kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.backend: Backend = "auto"


def attention(
    q: Float[Tensor, "b q h d"], k: Float[Tensor, "b k h d"], v: Float[Tensor, "b k h d"], backend: Backend = "auto"
) -> Float[Tensor, "b q h d"]:
    """Return softmax(q k^T / sqrt(d)) v, per head, without a mask.

    `auto` takes flash-attention 4, 3 or 2 for half-precision tensors on a GPU that supports it, if the kernel works at
    the first call with these shapes; otherwise torch's own attention. A named backend is used or refused with
    ValueError; it never falls back.

    In compiled code without gradients, kernels of other packages are one opaque operator, so they break no graph. With
    gradients, compiled code takes torch's attention for `auto`.
    """
    if torch.compiler.is_compiling() and _on_gpu(q):
        if _packages_for(backend) and not torch.is_grad_enabled():
            return torch.ops.fw_model.attention(q, k, v, backend)
        if backend == "auto":
            return _sdpa(q, k, v)
    return _attend(q, k, v, backend)


def backends_to_try(device: torch.device, dtype: torch.dtype, width: int) -> list[str]:
    """The backends that `auto` tries for tensors of this kind, in this order; `width` is the head width."""
    if device.type != "cuda" or not _fits_flash(dtype, width):
        return ["sdpa"]
    major = torch.cuda.get_device_capability(device)[0]
    supported = {"flash4": major in (9, 10), "flash3": major == 9, "flash2": major >= 8}
    installed = available_backends()
    return [*(name for name in _FLASH if supported[name] and name in installed), "sdpa"]


def available_backends() -> list[str]:
    """The backends whose packages are installed, `sdpa` first."""
    return list(_installed())


def check_backend(backend: str) -> None:
    """Raise ValueError, listing the available backends, unless `backend` is "auto" or can be imported."""
    if backend not in get_args(Backend):
        raise ValueError(f"Unknown attention backend {backend!r}; choose from {', '.join(get_args(Backend))}.")
    if backend != "auto" and backend not in available_backends():
        raise ValueError(
            f"Attention backend {backend!r} needs the package {_PACKAGES[backend]!r}, which is not installed. "
            f"Available here: {', '.join(available_backends())}."
        )
    if backend in _KERNELS:
        try:
            _KERNELS[backend]()
        except Exception as error:  # a wheel built for another torch or CUDA fails in many ways
            raise ValueError(
                f"Attention backend {backend!r}: the package {_PACKAGES[backend]!r} is installed but cannot be used "
                f"({type(error).__name__}: {error}). Install a build for torch {torch.__version__}, or use 'auto'."
            ) from None


def _attend(q: Tensor, k: Tensor, v: Tensor, backend: str) -> Tensor:
    if backend == "auto":
        return _automatic(q, k, v)
    if backend != "sdpa":
        check_backend(backend)
        _check_tensor(backend, q)
    return _run(backend, q, k, v)


def _automatic(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The first backend that works for these shapes, which is remembered."""
    if not _on_gpu(q):
        return _run("sdpa", q, k, v)
    key = (q.device, q.dtype, q.shape, k.shape)
    if key in _chosen:
        return _run(_chosen[key], q, k, v)
    for name in backends_to_try(q.device, q.dtype, q.shape[-1]):
        try:
            out = _run(name, q, k, v)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # ImportError of a broken wheel, a shape or a GPU without a kernel
            if name == "sdpa":
                raise
            if name not in _warned:
                _warned.add(name)
                _LOG.warning("attention: %s failed (%s: %s); trying the next", name, type(error).__name__, error)
            continue
        _chosen[key] = name
        return out
    raise AssertionError("sdpa is always tried")


def _run(name: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    if name == "sdpa":
        return _products(q, k, v) if _favors_products(q, k) else _sdpa(q, k, v)
    return _KERNELS[name]()(q, k, v)


@torch.library.custom_op("fw_model::attention", mutates_args=())
def _opaque(q: Tensor, k: Tensor, v: Tensor, backend: str) -> Tensor:
    """`attention` as an operator that compilers call without looking inside; no gradients."""
    return _attend(q, k, v, backend).contiguous()


@_opaque.register_fake
def _opaque_shape(q: Tensor, k: Tensor, v: Tensor, backend: str) -> Tensor:  # noqa: ARG001  (the operator's arguments)
    return q.new_empty(q.shape)


def _on_gpu(q: Tensor) -> bool:
    return q.device.type == "cuda"


def _packages_for(backend: str) -> bool:
    """Whether a backend may run a kernel of another package."""
    return backend != "sdpa" and bool(set(available_backends()) & {*_FLASH, backend})


# the mark that torch.compiler.assume_constant_result sets, which would import the compiler: seconds of every start
setattr(_packages_for, "_dynamo_marked_constant", True)  # noqa: B010


@lru_cache(maxsize=1)
def _installed() -> tuple[str, ...]:
    return tuple(name for name, package in _PACKAGES.items() if _is_found(package))


def _is_found(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except Exception:  # finding a submodule imports its parent, which may be absent or broken
        return False


def _fits_flash(dtype: torch.dtype, width: int) -> bool:
    return dtype in (torch.float16, torch.bfloat16) and width <= _MAX_FLASH_HEAD and width % 8 == 0


def _check_tensor(name: str, q: Tensor) -> None:
    if not _on_gpu(q) or (name in _FLASH and not _fits_flash(q.dtype, q.shape[-1])):
        raise ValueError(
            f"Attention backend {name!r} runs on a GPU"
            + (", in float16 or bfloat16, with a head width divisible by 8 and at most 256" if name in _FLASH else "")
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


@lru_cache(maxsize=1)
def _flash2() -> Callable[..., Tensor]:
    return importlib.import_module("flash_attn").flash_attn_func


@lru_cache(maxsize=1)
def _flash3() -> Callable[..., Tensor]:
    return _first(importlib.import_module("flash_attn_interface").flash_attn_func)


@lru_cache(maxsize=1)
def _flash4() -> Callable[..., Tensor]:
    return _first(importlib.import_module("flash_attn.cute").flash_attn_func)


@lru_cache(maxsize=1)
def _xformers() -> Callable[..., Tensor]:
    return importlib.import_module("xformers.ops").memory_efficient_attention


def _first(kernel: Callable[..., Any]) -> Callable[..., Tensor]:
    """A kernel that may return its log-sum-exp beside the output, without it."""

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = kernel(q, k, v)
        return out[0] if isinstance(out, tuple) else out

    return run


_KERNELS: dict[str, Callable[[], Callable[..., Tensor]]] = {
    "flash2": _flash2,
    "flash3": _flash3,
    "flash4": _flash4,
    "xformers": _xformers,
}
