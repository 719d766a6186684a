"""The model card of shipped weights, made from the files of the runs and of their data set: nothing in it is typed."""

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

from fw_data.annotate.config import AnnotateConfig
from fw_data.dataset.reader import ClipDataset
from fw_data.media.resize import size_of_record
from fw_model.checkpoints.weights import WeightFolder
from fw_model.pipeline.components import SPEC_FILE
from fw_model.pipeline.settings import Sampling
from fw_train.config.keys import is_flag
from fw_train.config.load import CONFIG, changed_keys, load
from fw_train.config.schema import LAUNCH, ConfigError, TrainConfig
from fw_train.data.samples import Split, open_dataset, split_clips

PLACES = ("data", "init", "out", "recipe", "model", *LAUNCH)
"""Keys of a configuration that the commands of the card give in another way, or that say only how a run was started."""
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


def model_card(chain: Sequence[Link], folder: Path, videos: Path) -> str:
    """The text of README.md for `folder`, with the weights made by `chain` (oldest run first).

    Raises:
        ConfigError: `videos` are not those of the data set, or a run has no recipe that its command could name.
    """
    data = chain[-1].config.data
    dataset = open_dataset(data)
    split = split_clips(dataset.records, chain[-1].config.clip)
    toy = _toy(videos, dataset)
    spec = json.loads((folder / SPEC_FILE).read_text(encoding="utf-8"))
    world, vae = _count(folder), _count(folder / "vae") if (folder / "vae").is_dir() else 0
    size, terms = Sampling.from_dict(spec["sampling"]), metadata("fw-model")["License-Expression"]
    shape = f"{size.num_frames} frames of {size.height}x{size.width}"
    sections = [
        f"---\nlicense: {terms.lower()}\npipeline_tag: image-to-video\n---",
        "# A small world",
        f"From an image, a text and a camera path to a video of {shape}, with depth, points and cameras from the same "
        f"pass. The model has {world / 1e6:.2f} million parameters, its video autoencoder {vae / 1e6:.2f} million. "
        "It was trained from random numbers with the commands below; `fw-train release` wrote this card from the files "
        "of those runs.",
        "```python\nfrom fw_model import WorldPipeline\n\n"
        'pipeline = WorldPipeline.from_pretrained(FOLDER)  # "small-world" for the weights included in fw-model\n```',
        "The weights are stored in float16 and computed with in float32.",
        "## Limits",
        _limits(shape, spec, toy, split),
        "## Data",
        _block([_toy_command(toy), _annotate_command(dataset)]),
        _data(toy, dataset, split),
        "## Training",
        _block(_command(link, before) for before, link in zip([None, *chain], chain, strict=False)),
        "CONFIG is the run's config.json with all settings.",
        _table(
            ("run", "steps", "clips per step", "parameters trained", "SHA-256 of CONFIG"),
            [_training_row(link) for link in chain],
        ),
        "## Figures",
        f"Of the runs' own logs, on {chain[-1].config.clip.validate_on} held-out clips or as many as there are: before "
        "the first step, and at the last measurement. Stages 1 and 2 go on from the one before.",
        *(_figures(link) for link in chain),
        "## Files",
        _table(("file", "bytes", "SHA-256"), _files(folder)),
        f"## License\n\n{terms}, as the source code; the data are rendered by it.",
    ]
    return "\n\n".join(sections) + "\n"


def _limits(shape: str, spec: dict[str, Any], toy: dict[str, Any], split: Split) -> str:
    """The limits of the model and of the figures."""
    world_of = {clip["name"]: clip["world"] for clip in toy["clips"]}
    seen = {world_of[_stem(record.source)] for record in split.train}
    shared = sum(world_of[_stem(record.source)] in seen for record in split.held_out)
    lines = [
        "It was trained on rendered toy scenes only. Nothing was measured on photographs or other data.",
        f"It was trained on {shape}; other sizes and lengths were not.",
        f"{shared} of the {len(split.held_out)} held-out clips below show a world that training clips show too, from "
        "another camera path: their figures are about new paths more than about new worlds.",
    ]
    if spec["text_encoder"]["kind"] == "hash":
        lines.append(
            "Its text encoder is a fixed hash of words: words that are in no caption of the data have no effect."
        )
    return "\n".join(f"- {line}" for line in lines)


def _toy(videos: Path, dataset: ClipDataset) -> dict[str, Any]:
    path = videos / "toy.json"
    if not path.is_file():
        raise ConfigError(f"--videos {videos}: toy.json not found; give the output folder of `fw-data toy`")
    toy = json.loads(path.read_text(encoding="utf-8"))
    names = {clip["name"] for clip in toy["clips"]}
    strange = sorted({record.source for record in dataset.records if _stem(record.source) not in names})
    if strange:
        raise ConfigError(
            f"--videos {videos}: {len(strange)} videos of the data set are not among them (first: {strange[0]}); "
            f"give the folder that {dataset.path} was annotated from"
        )
    return toy


def _toy_command(toy: dict[str, Any]) -> str:
    settings = toy["options"] | {"size": size_of_record(toy["options"]["size"])}
    options = " ".join(f"--{name} {value}" for name, value in settings.items())
    return f"fw-data toy toy --clips {len(toy['clips'])} {options}"


def _annotate_command(dataset: ClipDataset) -> str:
    """The command with all settings that differ from the defaults."""
    config: dict[str, Any] = json.loads((dataset.path / "dataset.json").read_text(encoding="utf-8"))["config"]
    words = f"fw-data annotate toy/raw dataset --geometry {config['backend']}"
    if config["backend"] == "oracle":
        words += " --truth toy/truth"
        if config["oracle.depth_noise"]:
            words += f" --oracle-noise {config['oracle.depth_noise']}"
    for key, usual in _flat(dataclasses.asdict(AnnotateConfig())).items():
        if config.get(key, usual) != usual:
            name = key.rpartition(".")[2]
            value = size_of_record(config[key]) if key == "size" else config[key]
            words += f" --{ANNOTATE_OPTIONS.get(name, name.replace('_', '-'))} {value}"
    return words


def _data(toy: dict[str, Any], dataset: ClipDataset, split: Split) -> str:
    card = json.loads((dataset.path / "dataset.json").read_text(encoding="utf-8"))
    worlds = len({clip["world"] for clip in toy["clips"]})
    rows = [
        ("videos", str(len(toy["clips"]))),
        ("worlds", str(worlds)),
        ("seed", str(toy["options"]["seed"])),
        ("clips kept by the annotation", str(card["counts"]["clips"])),
        ("clips trained on", str(len(split.train))),
        (f"clips held out (split by {split.by})", str(len(split.held_out))),
        *((f"SHA-256 of {shard['path']}", shard["sha256"]) for shard in card["shards"]),
    ]
    return _table(("data", "value"), rows)


def _command(link: Link, before: Link | None) -> str:
    """The command of a run: its recipe, and every setting that is not the recipe's."""
    config = link.config
    if not config.recipe:
        raise ConfigError(f"{config.out} was not started from a recipe, so no command of the card could name it")
    recipe = load(config.recipe, config.stage)
    words = f"fw-train {config.stage} {config.recipe} --data dataset --out runs/{link.folder.name}"
    if before is not None:
        words += f" --init runs/{before.folder.name}"
    if config.model != recipe.model:
        words += f" --model {Path(config.model).name}"
    values = _flat(config.to_json())
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
    table = _table(head, [(name, *(f"{row[name]:.4g}" for row in (first, last))) for name in names])
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


def _stem(source: str) -> str:
    return Path(source).stem


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _block(commands: Iterable[str]) -> str:
    return "```\n" + "\n".join(commands) + "\n```"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
