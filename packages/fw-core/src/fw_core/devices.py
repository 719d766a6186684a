"""The one choice of a torch device."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def choose_device(name: str = "auto", *, local_rank: int = 0) -> "torch.device":
    """The device that a user names.

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
