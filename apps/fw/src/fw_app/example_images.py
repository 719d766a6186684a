"""The included example images: `example:NAME` as the image of `fw generate`, and a note on a model's domain."""

from pathlib import Path

from fw_model.checkpoints.shipped import EXAMPLE, example_image, example_images


def resolve_image(image: Path, prompt: str) -> tuple[Path, str]:
    """The file of an image and the prompt to use: for `example:NAME`, the included image, described unless `prompt` is.

    ValueError if there is no such example.
    """
    if not str(image).startswith(EXAMPLE) or image.exists():
        return image, prompt
    example = example_image(str(image))
    return example.path, prompt or example.prompt


def domain_note(trained_on: str) -> str:
    """One line about a model that knows one kind of image only."""
    names = [EXAMPLE + example.name for example in example_images()]
    return (
        f"note: this model was trained on {trained_on} only, so other images turn into blur; "
        f"try {names[0]} to {names[-1]} as IMAGE"
    )
