"""Checkpoints of other projects and older layouts: how their tensors are called, and how to turn them.

``layouts`` renames tensors and opens nothing; ``convert_checkpoint`` turns a ``.pth`` into safetensors by starting
``pickles``, the one module that opens a pickle, in a process of its own.
"""

from fw_model.convert.command import Converted, convert_checkpoint

__all__ = ["Converted", "convert_checkpoint"]
