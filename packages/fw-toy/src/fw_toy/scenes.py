"""The kinds of world that `fw-data toy` offers."""

SCENES = {"both": ("indoor", "outdoor"), "indoor": ("indoor",), "outdoor": ("outdoor",), "rooms": ("rooms",)}
"""Values of `--scenes` -> kinds of world, which alternate from world to world."""
