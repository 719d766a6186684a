"""From a recipe name or a TOML file, plus command-line words, to one checked `TrainConfig`.

A TOML file may name the recipe it starts from (`recipe = "tiny"`); every other key is a field of `TrainConfig`,
with one table per group ([optim], [clip], ...). A key that does not exist is an error that names the nearest one.
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

from fw_train.config.recipes import RECIPES
from fw_train.config.schema import LAUNCH, ConfigError, Stage, TrainConfig

CONFIG = "config.json"
"""Name of the resolved configuration in a run's folder."""
RESUMABLE = ("steps", "out", "data", "init", "every", "sampling", "clip.cache_gb", *LAUNCH)
RESUMABLE += ("compute.threads", "compute.shard", "compute.activation_checkpointing", "compute.device")
"""Keys that `resume` may change: none of them changes the weights at a given step."""


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
        raise ConfigError(f"{path} says it is for another stage; the command says {stage}")
    start = _recipe(recipe, stage) if recipe else TrainConfig(stage=stage)
    return from_mapping(tree, start, where=str(path))


def override(config: TrainConfig, words: Sequence[str], *, prog: str) -> TrainConfig:
    """Apply command-line words such as `--optim.lr 1e-3`; tyro prints help or the error and exits (0 or 2)."""
    import tyro

    return tyro.cli(TrainConfig, default=config, args=list(words), prog=prog, description=None)


def from_mapping(tree: Mapping[str, Any], start: TrainConfig | None = None, *, where: str = "config") -> TrainConfig:
    """Replace the fields of `start` (default: all defaults) that `tree` names; the inverse of `TrainConfig.to_json`.

    Raises:
        ConfigError: unknown key (with the nearest existing one) or a value of the wrong type.
    """
    start = start or TrainConfig()
    known = _keys(start)
    return _merge(start, tree, prefix="", known=known, where=where)


def changed_keys(old: TrainConfig, new: TrainConfig) -> list[str]:
    """Dotted names of the fields that differ."""
    before, after = _flatten(old.to_json()), _flatten(new.to_json())
    return [key for key in after if before.get(key) != after[key]]


def check_resume(old: TrainConfig, new: TrainConfig) -> None:
    """Raise ConfigError when a resumed run would change anything that its weights depend on."""
    refused = [k for k in changed_keys(old, new) if not any(k == r or k.startswith(r + ".") for r in RESUMABLE)]
    if new.optim.schedule != "constant" and "steps" in changed_keys(old, new):
        refused.append("steps (the cosine schedule depends on it)")
    if refused:
        raise ConfigError(
            f"resume cannot change {', '.join(refused)}: the run would no longer be the same one. "
            f"Start a new run with --init {old.out} instead."
        )


def holds_run(config: TrainConfig) -> bool:
    """Whether `out` holds a run already.

    Raises:
        ConfigError: it does and `go_on` is not set, or `out` is not set.
    """
    if config.out is None:
        raise ConfigError("out is not set: give --out RUN, the folder to write")
    if not (config.out / CONFIG).exists():
        return False
    if not config.go_on:
        raise ConfigError(
            f"{config.out} holds a run already: `fw-train resume {config.out}`, give another --out, "
            "or --go-on for a command that starts or resumes"
        )
    return True


def _recipe(name: str, stage: Stage) -> TrainConfig:
    if name not in RECIPES:
        nearest = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"recipes are: {', '.join(RECIPES)}"
        raise ConfigError(f"no recipe and no file is called {name!r}; {hint}")
    return dataclasses.replace(RECIPES[name](stage), recipe=name)


def _merge(node: Any, tree: Mapping[str, Any], *, prefix: str, known: list[str], where: str) -> Any:
    types = typing.get_type_hints(type(node))
    updates: dict[str, Any] = {}
    for key, value in tree.items():
        name = prefix + key
        if key not in types:
            raise ConfigError(f"{where}: there is no key {name!r}; {_nearest(name, known)}")
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
            raise ConfigError(f"{where}: {name} = {value!r} will not do: {reason}") from None
    return dataclasses.replace(node, **updates)


def _nearest(name: str, known: list[str]) -> str:
    last = name.rsplit(".", 1)[-1]
    tails = {key.rsplit(".", 1)[-1]: key for key in known}
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    close = close or [tails[t] for t in difflib.get_close_matches(last, tails, n=1, cutoff=0.7)]
    return f"did you mean {close[0]!r}?" if close else f"keys are: {', '.join(known)}"


def _keys(config: TrainConfig) -> list[str]:
    return list(_flatten(dataclasses.asdict(config)))


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat
