"""Checkpoints of other projects and older layouts: where they lie, how their tensors are called, and how to turn them.

``layouts`` renames tensors and opens nothing; ``sources`` finds and reads safetensors; ``pickles`` is the one place of
the product that opens a ``.pth`` file, and it does so in a process of its own.
"""
