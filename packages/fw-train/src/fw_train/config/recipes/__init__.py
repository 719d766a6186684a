"""Recipes: functions from a stage to a full configuration. A new recipe is one function and one line here."""

from collections.abc import Callable

from fw_train.config.recipes.paper import eight_gpu, one_gpu_24gb, one_gpu_80gb, paper
from fw_train.config.recipes.tiny import small_world, tiny
from fw_train.config.schema import Stage, TrainConfig

RECIPES: dict[str, Callable[[Stage], TrainConfig]] = {
    "tiny": tiny,
    "small-world": small_world,
    "paper": paper,
    "one-gpu-24gb": one_gpu_24gb,
    "one-gpu-80gb": one_gpu_80gb,
    "8-gpu": eight_gpu,
}
"""All recipes by their name on the command line."""
