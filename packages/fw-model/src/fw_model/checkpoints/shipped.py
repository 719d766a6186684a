"""The weights that come with the package: a small world, trained with the package's own commands.

They lie in `fw_model/small_world/`, a pipeline folder in float16 with its model card (README.md). Nothing here
needs torch.
"""

from pathlib import Path

SMALL_WORLD = "small-world"
"""What `WorldPipeline.from_pretrained` and every `--checkpoint` call the weights that come with the package."""


def shipped_weights() -> Path:
    """The folder of the weights that come with the package.

    Raises:
        ValueError: this installation has none.
    """
    folder = Path(__file__).parents[1] / "small_world"
    if not (folder / "pipeline.json").is_file():
        raise ValueError(
            f"this installation of fw-model comes without the weights {SMALL_WORLD!r} ({folder} holds none): install "
            "it again, or name a checkpoint of your own: a folder that fw-train wrote (RUN/export), or a hub id"
        )
    return folder
