"""Choose a torch device or data type by name; devices without float64."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def choose_device(name: str = "auto", *, local_rank: int = 0) -> "torch.device":
    """The device with this name.

    Args:
        name: `auto` (a CUDA GPU if there is one, else Apple's mps, else the CPU), `cpu`, `mps`, `cuda`, or `cuda:N`.
        local_rank: which GPU `cuda` and `auto` mean, for several processes on one machine.

    Raises:
        ValueError: not the name of a device, or a device that this machine lacks.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device("cuda", local_rank) if name == "cuda" else torch.device(name)
    except RuntimeError:
        raise ValueError(f"device {name!r} is invalid; use auto, cpu, cuda, cuda:N or mps") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name!r}: torch finds no CUDA GPU on this machine; use cpu, or auto")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name!r}: this machine has {torch.cuda.device_count()} CUDA GPUs, numbered from 0")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"device {name!r}: torch finds no Apple GPU on this machine; use cpu, or auto")
    return device


DTYPES = {
    "float32": "float32",
    "fp32": "float32",
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
    "float16": "float16",
    "fp16": "float16",
}
"""Accepted name of a data type -> its name in torch."""


def choose_dtype(dtype: "str | torch.dtype | None") -> "torch.dtype | None":
    """A data type by name; None and types of torch are returned unchanged.

    Args:
        dtype: a type of torch, or one of `DTYPES`, with or without `torch.` before it.

    Raises:
        TypeError: neither a text nor a type of torch.
        ValueError: an unknown name.
    """
    import torch

    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    if not isinstance(dtype, str):
        raise TypeError(f"dtype is {dtype!r}; give a torch.dtype or a name: {', '.join(DTYPES)}")
    name = DTYPES.get(dtype.removeprefix("torch."))
    if name is None:
        raise ValueError(f"dtype {dtype!r} is invalid; use one of {', '.join(DTYPES)}")
    return getattr(torch, name)


def float64_device(device: "torch.device") -> "torch.device":
    """The device to compute float64 on for results on `device`: the CPU if `device` has no float64 (Apple's mps)."""
    import torch

    return torch.device("cpu") if device.type in WITHOUT_FLOAT64 else device


WITHOUT_FLOAT64 = ("mps",)
"""Types of devices that have no float64."""
