"""The model card of released weights, generated from the files of the runs and their data."""

import dataclasses
import hashlib
import json
import math
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

from fw_core.tables import markdown
from fw_data.annotate.config import AnnotateConfig
from fw_data.dataset.reader import ClipDataset
from fw_data.media.resize import size_of_record
from fw_model.checkpoints.shipped import SMALL_WORLD, shipped_weights
from fw_model.checkpoints.weights import WeightFolder
from fw_model.pipeline.components import SPEC_FILE
from fw_model.pipeline.settings import Sampling
from fw_toy.rooms.clip import HELD_OUT_WORLDS
from fw_train.config.keys import is_flag
from fw_train.config.load import CONFIG, changed_keys, is_rooms, load
from fw_train.config.schema import LAUNCH, ConfigError, TrainConfig

PLACES = ("data", "init", "out", "recipe", "model", *LAUNCH)
"""Keys that the commands of the card give separately, or that only control the launch."""
ANNOTATE_OPTIONS = {"max_frames": "frames", "trim_s": "trim", "min_motion_px": "min-motion"}
"""Settings in dataset.json whose option of `fw-data annotate` has another name."""


@dataclass(frozen=True, kw_only=True)
class Link:
    """One run of the chain that the weights come from."""

    folder: Path
    """Folder of the run."""
    config: TrainConfig
    """Configuration of the run."""
    steps: int
    """Number of steps behind the weights."""
    log: list[dict[str, Any]]
    """Rows of the log up to that step."""


def domain(chain: Sequence[Link]) -> str:
    """The only kind of image that the model has seen, or "" if its training data are not rendered rooms alone."""
    return "rendered rooms" if all(is_rooms(link.config.data) for link in chain) else ""


def model_card(earlier: Sequence[dict[str, Any]], chain: Sequence[Link], folder: Path) -> str:
    """The text of README.md for `folder`.

    Args:
        earlier: history of the weights that the first run of the chain started from.
        chain: the runs since then, oldest first.
        folder: the release, complete except for the card.

    Raises:
        ConfigError: a dataset of the runs is missing, or a run was not started from a recipe.
    """
    spec = json.loads((folder / SPEC_FILE).read_text(encoding="utf-8"))
    world, vae = _count(folder), _count(folder / "vae") if (folder / "vae").is_dir() else 0
    size, terms = Sampling.from_dict(spec["sampling"]), metadata("fw-model")["License-Expression"]
    shape = f"{size.num_frames} frames of {size.width}x{size.height}"
    names = _dataset_names(chain)
    origin = "from earlier weights" if earlier else "from random numbers"
    title = "A small world of rooms" if domain(chain) else "A small world"
    sections = [
        f"---\nlicense: {terms.lower()}\npipeline_tag: image-to-video\n---",
        f"# {title}",
        f"From an image, a text and a camera path to a video of {shape}, with depth, points and cameras from the same "
        f"pass. The model has {world / 1e6:.2f} million parameters, its video autoencoder {vae / 1e6:.2f} million. "
        f"It was trained {origin} with the commands below; `fw-train release` wrote this card from the files "
        "of those runs.",
        "```python\nfrom fw_model import WorldPipeline\n\n"
        'pipeline = WorldPipeline.from_pretrained(FOLDER)  # "small-world" for the weights included in fw-model\n```',
        "The weights are stored in float16; loading converts them to float32.",
        "## Limits",
        _limits(chain, shape, spec),
        "## Data",
        *_data(names),
        "## Training",
        _block(_command(link, before, names) for before, link in zip([None, *chain], chain, strict=False)),
        "CONFIG is the run's config.json with all settings.",
        markdown(
            ("run", "steps", "clips per step", "parameters trained", "SHA-256 of CONFIG"),
            [
                *(
                    (f"earlier ({entry['stage']})", f"{entry['steps']:,}", "", "", f"{entry['configuration']}")
                    for entry in earlier
                ),
                *(_training_row(link) for link in chain),
            ],
        ),
        "## Figures",
        f"From the runs' own logs, on at most {chain[-1].config.clip.validate_on} held-out clips: before the first "
        "step and at the last measurement. Later stages continue from the run before.",
        *(_figures(link) for link in chain),
        "## Files",
        markdown(("file", "bytes", "SHA-256"), _files(folder)),
        f"## License\n\n{terms}, as the source code.",
    ]
    return "\n\n".join(sections) + "\n"


def _dataset_names(chain: Sequence[Link]) -> dict[str | Path, str]:
    """Training data of the chain -> their names in the card: `rooms` as typed, datasets numbered, in order of use."""
    used = list(dict.fromkeys(link.config.data for link in chain if link.config.data is not None))
    folders = [data for data in used if not is_rooms(data)]
    numbered = {data: "dataset" if len(folders) == 1 else f"dataset{n}" for n, data in enumerate(folders, start=1)}
    return {data: numbered.get(data, str(data)) for data in used}


def _limits(chain: Sequence[Link], shape: str, spec: dict[str, Any]) -> str:
    """The limits of the model and of the figures."""
    lines = [f"It was trained on {shape} only; other sizes and lengths were not tried."]
    if domain(chain):
        lines.insert(
            0, "It was trained on rendered rooms only. It has never seen a photograph and cannot continue one."
        )
    if spec["text_encoder"]["kind"] == "hash":
        lines.append(
            "Its text encoder is a fixed hash of words: words that no caption of the data contains have no effect."
        )
    return "\n".join(f"- {line}" for line in lines)


def _data(names: dict[str | Path, str]) -> list[str]:
    """Where the training data come from, in figures that identify them: rooms first, then each dataset."""
    rooms = [f"`{name}`" for data, name in names.items() if is_rooms(data)]
    found = []
    if rooms:
        found = [
            f"{', '.join(rooms)}: rooms rendered while training, with exact depth and cameras (`fw_toy.rooms`). A clip "
            f"is a function of its seed. Held-out rooms have seeds from {HELD_OUT_WORLDS:,}, outside every training "
            "range."
        ]
    for data, name in names.items():
        if is_rooms(data):
            continue
        dataset = ClipDataset(data)
        card = json.loads(dataset.file("dataset.json"))
        rows = [
            ("source videos", str(len({record.source_sha256 for record in dataset.records}))),
            ("clips", str(card["counts"]["clips"])),
            *((f"SHA-256 of {shard['path']}", shard["sha256"]) for shard in card["shards"]),
        ]
        command, table = _block([_annotate_command(dataset, name)]), markdown(("data", "value"), rows)
        found.append(f"`{name}`:\n\n{command}\n\n{table}")
    return found


def _annotate_command(dataset: ClipDataset, name: str) -> str:
    """The command with all settings that differ from the defaults."""
    config: dict[str, Any] = json.loads(dataset.file("dataset.json"))["config"]
    words = f"fw-data annotate RAW {name} --geometry {config['backend']}"
    if config["backend"] == "oracle":
        words += " --truth TRUTH"
        if config["oracle.depth_noise"]:
            words += f" --oracle-noise {config['oracle.depth_noise']}"
    for key, usual in _flat(dataclasses.asdict(AnnotateConfig())).items():
        if config.get(key, usual) != usual:
            name = key.rpartition(".")[2]
            value = size_of_record(config[key]) if key == "size" else config[key]
            words += f" --{ANNOTATE_OPTIONS.get(name, name.replace('_', '-'))} {value}"
    return words


def _command(link: Link, before: Link | None, names: dict[str | Path, str]) -> str:
    """The command of a run: its recipe, and every setting that differs from the recipe."""
    config = link.config
    if not config.recipe:
        raise ConfigError(f"{config.out} was not started from a recipe, so the card cannot give its command")
    recipe = load(config.recipe, config.stage)
    words = f"fw-train {config.stage} {config.recipe}"
    if config.data is not None and config.data != recipe.data:
        words += f" --data {names[config.data]}"
    words += f" --out runs/{link.folder.name}"
    if before is not None:
        words += f" --init runs/{before.folder.name}"
    elif config.init is not None:
        words += f" --init {SMALL_WORLD if config.init == shipped_weights() else 'EARLIER'}"
    if config.model != recipe.model:
        words += f" --model {Path(config.model).name}"
    values = _flat(config.to_json())
    if config.optim.schedule == "constant":  # more steps would be the same run, continued
        values["steps"] = link.steps
    for key in changed_keys(recipe, config):
        if key not in PLACES:
            words += f" {_option(key, values[key])}"
    return words


def _option(key: str, value: Any) -> str:
    if not is_flag(key):
        return f"--set {shlex.quote(f'{key}={json.dumps(value)}')}"
    name = key.replace("_", "-")
    if isinstance(value, bool):
        group, _, last = name.rpartition(".")
        return f"--{name}" if value else f"--{group}{'.' if group else ''}no-{last}"
    text = " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return f"--{name} {text}"


def _training_row(link: Link) -> tuple[str, ...]:
    started = next(row for row in link.log if row.get("event") == "started")
    digest = hashlib.sha256((link.folder / CONFIG).read_bytes()).hexdigest()
    return (
        f"{link.folder.name} ({link.config.stage})",
        str(link.steps),
        str(link.config.batch),
        f"{started['trained']:,}",
        digest,
    )


def _figures(link: Link) -> str:
    """All held-out figures in the log of a run, first and last measurement."""
    rows = [row for row in link.log if row.get("split") == "val"]
    if not rows:
        return f"### {link.folder.name}\n\nNothing was measured."
    first, last = rows[0], rows[-1]
    names = [name for name in last if name not in ("step", "split")]
    head = (f"{link.folder.name} ({link.config.stage})", f"step {first['step']}", f"step {last['step']}")
    table = markdown(head, [(name, *(f"{row[name]:.4g}" for row in (first, last))) for name in names])
    if "psnr/block_dct" not in names:
        return table
    return table + "\n\n`psnr` is the autoencoder's, in dB; `psnr/block_dct` that of the fixed transform it starts as."


def _files(folder: Path) -> list[tuple[str, ...]]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [
        (path.relative_to(folder).as_posix(), f"{path.stat().st_size:,}", hashlib.sha256(path.read_bytes()).hexdigest())
        for path in paths
    ]


def _count(folder: Path) -> int:
    """Number of parameters in the weight files of a folder."""
    return sum(math.prod(shape) for shape in WeightFolder(folder).shapes.values())


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _block(commands: Iterable[str]) -> str:
    return "```\n" + "\n".join(commands) + "\n```"
