"""Recipes: Python functions from a stage to a full configuration. A new one is one function and one line here."""

from collections.abc import Callable

from fw_train.config import Stage, TrainConfig
from fw_train.recipes.tiny import tiny

RECIPES: dict[str, Callable[[Stage], TrainConfig]] = {"tiny": tiny}
"""Every recipe by the name that the command line knows."""
