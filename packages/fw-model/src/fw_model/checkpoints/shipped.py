"""The weights included in the package: a small world, trained with the package's own commands, and images for it.

`fw_model/small_world/` is a pipeline folder in float16 with its model card (README.md). `fw_model/example_images/`
holds first frames of the kind that the model was trained on, but not from its training set. Nothing here imports torch.
"""

import json
from dataclasses import dataclass
from pathlib import Path

SMALL_WORLD = "small-world"
"""Name of the included weights for `WorldPipeline.from_pretrained` and every `--checkpoint`."""
EXAMPLE = "example:"
"""Prefix of the name of an example image, as in `fw generate example:room-1`."""


@dataclass(frozen=True, kw_only=True)
class ExampleImage:
    """A first frame that the included weights know how to continue."""

    name: str
    """Name after `example:`."""
    path: Path
    """JPEG file."""
    prompt: str
    """Description of the image."""


def shipped_weights() -> Path:
    """The folder of the included weights.

    Raises:
        ValueError: this installation has none.
    """
    folder = Path(__file__).parents[1] / "small_world"
    if not (folder / "pipeline.json").is_file():
        raise ValueError(
            f"this installation of fw-model lacks the weights {SMALL_WORLD!r} ({folder} has no pipeline.json): "
            "install it again, or give a checkpoint of your own: a folder written by fw-train (RUN/export), or a hub id"
        )
    return folder


def example_images() -> list[ExampleImage]:
    """The included images."""
    folder = Path(__file__).parents[1] / "example_images"
    rows = json.loads((folder / "examples.json").read_text(encoding="utf-8"))
    return [ExampleImage(name=row["name"], path=folder / f"{row['name']}.jpg", prompt=row["prompt"]) for row in rows]


def example_image(name: str) -> ExampleImage:
    """The example called `name`, with or without the prefix `example:`.

    Raises:
        ValueError: there is none; the message lists those that exist.
    """
    known = {example.name: example for example in example_images()}
    try:
        return known[name.removeprefix(EXAMPLE)]
    except KeyError:
        listed = ", ".join(EXAMPLE + key for key in known)
        raise ValueError(f"example image not found: {name}; available: {listed}") from None
