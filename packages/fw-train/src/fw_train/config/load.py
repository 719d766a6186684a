"""Load a `TrainConfig` from a recipe, a TOML file or the config.json of a run.

A TOML file may name the recipe it starts from (`recipe = "tiny"`); every other key is a field of `TrainConfig`,
with one table per group ([optim], [clip], ...). A key that does not exist, or that the stage does not read,
is an error.
"""

import dataclasses
import difflib
import json
import tomllib
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pydantic

from fw_data.dataset.storage import check_path, is_address
from fw_data.errors import DataError
from fw_model.checkpoints.shipped import SMALL_WORLD, shipped_weights
from fw_train.config.keys import readers, unread_error
from fw_train.config.recipes import RECIPES
from fw_train.config.schema import LAUNCH, ConfigError, Stage, TrainConfig, leaves

CONFIG = "config.json"
"""File, in a run folder, with the resolved configuration."""
FORMER_KEYS = (
    ("sampling", "steps", "num_inference_steps"),
    ("sampling", "guidance", "guidance_scale"),
    ("dropout", "bicross", "cross_branch"),
)
"""Group, former name and name of keys that were renamed; runs of earlier versions have the former ones."""
RESUMABLE = ("steps", "out", "data", "init", "every", "sampling", "skip", "clip.cache_gb", "clip.num_workers", *LAUNCH)
RESUMABLE += (
    "clip.encode_first",
    "compute.offload_optimizer",
    "compute.offload_blocks",
    "compute.offload_activations",
    "compute.threads",
    "compute.sequence",
    "compute.shard",
    "compute.activation_checkpointing",
    "compute.device",
)
"""Keys that `resume` may change: none of them changes the weights at a given step."""
ELSEWHERE = {
    "blocks_to_swap": "compute.offload_blocks",
    "gradient_checkpointing": "compute.activation_checkpointing",
}
"""Names of other trainers -> key, for suggestions."""


def load(source: str, stage: Stage) -> TrainConfig:
    """The configuration of a recipe name or a TOML file, before command-line overrides; not checked yet.

    Raises:
        ConfigError: no such recipe or file, a key that does not exist, or a value of the wrong type.
    """
    path = Path(source)
    if path.suffix != ".toml" and not path.is_file():
        return _recipe(source, stage)
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"config file {path} does not exist") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    recipe = tree.pop("recipe", "")
    if tree.pop("stage", stage) != stage:
        raise ConfigError(
            f"{path} is for another stage than {stage}; remove its `stage`, or run the command of its stage"
        )
    start = _recipe(recipe, stage) if recipe else TrainConfig(stage=stage)
    return from_mapping(tree, start, where=str(path))


def from_mapping(tree: Mapping[str, Any], start: TrainConfig | None = None, *, where: str = "config") -> TrainConfig:
    """Replace the fields of `start` (default: all defaults) that `tree` names.

    Raises:
        ConfigError: unknown key (with the nearest existing one), a key that the stage does not read, or a value of the
            wrong type.
    """
    start = start or TrainConfig()
    config = _merge(start, tree, prefix="", known=list(leaves(start)), where=where)
    before, after = leaves(start), leaves(config)
    for key in flatten(tree):
        if config.stage not in readers(key) and after[key] != before[key]:
            raise ConfigError(f"{where}: {unread_error(key, config.stage)}")
    return config


def from_json(tree: Mapping[str, Any], *, where: str = CONFIG) -> TrainConfig:
    """The configuration in a run's config.json, of this or an earlier version; the inverse of `TrainConfig.to_json`.

    Keys that the run's stage does not read are moved to `unread`: they change only the run's identity.

    Raises:
        ConfigError: unknown key, or a value of the wrong type.
    """
    tree = json.loads(json.dumps(tree))
    for group, former, name in FORMER_KEYS:
        if former in tree.get(group, {}):
            tree[group][name] = tree[group].pop(former)
    for name, value in tree.get("loss", {}).items():
        if name in ("depth", "points", "camera") and not isinstance(value, Mapping):
            tree["loss"][name] = {"weight": value}
    config = _merge(TrainConfig(), tree, prefix="", known=list(leaves(TrainConfig())), where=where)
    if config.launcher == "local":
        config = dataclasses.replace(config, restarts=TrainConfig().restarts)
    return only_read(config)


def only_read(config: TrainConfig, also: Sequence[str] = ()) -> TrainConfig:
    """The configuration with the keys that the stage does not read, and those in `also`, at their defaults.

    Their values are appended to `unread`.
    """
    usual, values = flatten(TrainConfig().to_json()), flatten(dataclasses.replace(config, unread=()).to_json())
    skipped = [key for key in values if config.stage not in readers(key) or key in also]
    unread = {key: values[key] for key in skipped if values[key] != usual[key]}
    if not unread:
        return config
    tree: dict[str, Any] = {}
    for key in unread:
        *groups, name = key.split(".")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[name] = usual[key]
    config = _merge(config, tree, prefix="", known=[], where=CONFIG)
    return dataclasses.replace(config, unread=(*config.unread, *unread.items()))


def changed_keys(old: TrainConfig, new: TrainConfig) -> list[str]:
    """Dotted names of the fields that differ."""
    before, after = leaves(old), leaves(new)
    return [key for key in after if before[key] != after[key]]


def check_resume(old: TrainConfig, new: TrainConfig) -> None:
    """Raise ConfigError if resuming would change a key that the weights depend on."""
    refused = [k for k in changed_keys(old, new) if not any(k == r or k.startswith(r + ".") for r in RESUMABLE)]
    if new.optim.schedule != "constant" and "steps" in changed_keys(old, new):
        refused.append("steps (the cosine schedule depends on it)")
    if missing := sorted(set(old.skip) - set(new.skip)):
        refused.append(f"skip (it must still contain {', '.join(missing)})")
    if refused:
        raise ConfigError(
            f"resume cannot change {', '.join(refused)}: it would be another run. Instead, start a new run "
            f"with --init {old.out}"
        )


def absolute(config: TrainConfig) -> TrainConfig:
    """The configuration with absolute paths, so that it is valid in every working directory and on every node.

    Raises:
        ConfigError: see `is_remote`.
    """
    paths = {key: str(Path(value).resolve()) for key in ("data", "out", "init") if (value := getattr(config, key))}
    if str(config.init) == SMALL_WORLD and not Path(SMALL_WORLD).exists():
        paths["init"] = str(shipped_weights())
    if config.data is not None and (is_rooms(config.data) or is_remote(config.data)):
        del paths["data"]
    if Path(config.model).suffix == ".json":
        paths["model"] = str(Path(config.model).resolve())
    return from_mapping(paths, config)


def is_rooms(data: str | Path | None) -> bool:
    """Whether `data` names rooms that are rendered while training, rather than a dataset."""
    return data is not None and str(data).split(":")[0] == "rooms" and not Path(data).exists()


def is_remote(data: str | Path) -> bool:
    """Whether `data` is an address rather than a path.

    Raises:
        ConfigError: it is an address with one slash.
    """
    try:
        check_path(data)
    except DataError as error:
        raise ConfigError(str(error)) from None
    return is_address(data)


def holds_run(config: TrainConfig) -> bool:
    """Whether `out` contains a run already.

    Raises:
        ConfigError: it does, but `go_on` is not set; or `out` is not set.
    """
    if config.out is None:
        raise ConfigError("out is not set: give --out RUN, the run folder to write")
    if not (config.out / CONFIG).exists():
        return False
    if not config.go_on:
        raise ConfigError(
            f"{config.out} contains a run already: resume it with `fw-train resume {config.out}`, give another "
            "--out, or add --go-on to start or resume with the same command"
        )
    return True


def _recipe(name: str, stage: Stage) -> TrainConfig:
    if name not in RECIPES:
        nearest = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"recipes are: {', '.join(RECIPES)}"
        raise ConfigError(f"no recipe and no file is called {name!r}; {hint}")
    return dataclasses.replace(only_read(RECIPES[name](stage)), recipe=name, unread=())


def _merge(node: Any, tree: Mapping[str, Any], *, prefix: str, known: list[str], where: str) -> Any:
    types = typing.get_type_hints(type(node))
    updates: dict[str, Any] = {}
    for key, value in tree.items():
        name = prefix + key
        if key not in types:
            raise ConfigError(f"{where}: unknown key {name!r}; {_hint(name, known)}")
        current = getattr(node, key)
        if dataclasses.is_dataclass(current):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{where}: {name!r} is a table of keys, not the value {value!r}; write [{name}]")
            updates[key] = _merge(current, value, prefix=f"{name}.", known=known, where=where)
            continue
        try:
            updates[key] = pydantic.TypeAdapter(types[key]).validate_json(json.dumps(value, default=str), strict=True)
        except pydantic.ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise ConfigError(f"{where}: {name} = {value!r} is invalid: {reason}") from None
    return dataclasses.replace(node, **updates)


def nearest_key(name: str, known: Sequence[str]) -> str:
    """The key, or group of keys, that a misspelled name most likely means; empty if none is close."""
    if ELSEWHERE.get(name) in known:
        return ELSEWHERE[name]
    groups = sorted({key.split(".")[0] for key in known if "." in key})
    close = difflib.get_close_matches(name, [*known, *groups], n=1, cutoff=0.7)
    if not close:
        last = name.rsplit(".", 1)[-1]
        tails = {key.rsplit(".", 1)[-1]: key for key in known}
        close = [tails[tail] for tail in difflib.get_close_matches(last, tails, n=1, cutoff=0.7)]
    return close[0] if close else ""


def _hint(name: str, known: Sequence[str]) -> str:
    close = nearest_key(name, known)
    return f"did you mean {close!r}?" if close else f"keys are: {', '.join(known)}"


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value of a tree of tables."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat
