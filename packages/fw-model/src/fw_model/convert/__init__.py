"""Checkpoints of other projects and older layouts: tensor names and conversion to safetensors.

``layouts`` renames tensors and opens nothing; ``convert_checkpoint`` turns a ``.pth`` into safetensors by starting
``pickles``, the one module that opens a pickle, in a separate process.
"""

from fw_model.convert.command import Converted, convert_checkpoint

__all__ = ["Converted", "convert_checkpoint"]
