"""The command line of a run: flags for the keys that a stage reads, and `--set` for keys without a flag."""

import dataclasses
import tomllib
from collections.abc import Sequence
from typing import Annotated, Any, cast, get_type_hints

from tyro.conf import Suppress, UseAppendAction, arg

from fw_core.help import parse
from fw_train.config.keys import is_flag, readers, unread_error
from fw_train.config.load import from_mapping, nearest_key
from fw_train.config.schema import ConfigError, Stage, TrainConfig, leaves

_ABOUT: dict[Stage, str] = {
    "autoencoder": "Train the small video autoencoder of the small presets.",
    "base": "Train the video branch of the small presets from random weights.",
    "stage1": "Train the geometry branch on the features of the frozen video model.",
    "stage2": "Train the camera control and the cross-attention between the branches, which are frozen.",
    "distill": "Train LoRA adapters with which the model generates in a few steps.",
}
_CONFIG = " CONFIG is a recipe (the help of fw-train lists them) or a TOML file with the same keys as the options."


def override(config: TrainConfig, words: Sequence[str], *, prog: str) -> TrainConfig:
    """Apply flags such as `--optim.lr 1e-3`; tyro prints help or the error and exits (0 or 2).

    Raises:
        ConfigError: a flag that the stage does not read, or a key that has no flag.
    """
    _refuse(config.stage, words)
    view = _view(TrainConfig, config.stage)
    help_text = "A key without a flag, such as clip.cache_gb=8 or loss.depth.gradient=1; may be repeated."
    chosen = dataclasses.make_dataclass(
        "TrainConfig",
        [("set", UseAppendAction[Annotated[tuple[str, ...], arg(help=help_text, metavar="KEY=VALUE")]], ())],
        bases=(view,),
        frozen=True,
        kw_only=True,
    )
    given = parse(chosen, words, prog=prog, default=_copy(config, chosen), description=_ABOUT[config.stage] + _CONFIG)
    config = _copy(given, TrainConfig)
    for word in given.set:
        config = from_mapping(_assignment(word), config, where="--set")
    return config


def flags(stage: Stage) -> list[str]:
    """The keys that are flags of a stage."""
    return [key for key in leaves(TrainConfig()) if is_flag(key) and stage in readers(key)]


def _refuse(stage: Stage, words: Sequence[str]) -> None:
    """Raise ConfigError for a flag that does not exist, or that the stage does not read."""
    known = leaves(TrainConfig())
    for word in words:
        flag = word.partition("=")[0]
        key = flag.removeprefix("--").replace("-", "_")
        group, dot, name = key.rpartition(".")
        positive = group + dot + name.removeprefix("no_")
        key = positive if positive in known else key
        if not flag.startswith("--") or key in ("", "set", "help"):
            continue
        if key not in known:
            raise ConfigError(f"unknown flag {flag}; {_suggestion(key, stage)}")
        if stage not in readers(key):
            raise ConfigError(f"{flag}: {unread_error(key, stage)}")
        if not is_flag(key):
            raise ConfigError(f"{key} has no flag; write --set {key}=VALUE, or set it in a TOML file")


def _suggestion(key: str, stage: Stage) -> str:
    close = nearest_key(key, [name for name in leaves(TrainConfig()) if stage in readers(name)])
    if not close:
        return "list the flags with --help"
    return f"did you mean --{close.replace('_', '-')}?" if is_flag(close) else f"did you mean --set {close}=VALUE?"


def _assignment(word: str) -> dict[str, Any]:
    key, equals, value = word.partition("=")
    if not equals:
        raise ConfigError(f"--set {word}: write KEY=VALUE, such as clip.cache_gb=8")
    for text in (word, f"{key} = {value!r}"):
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError:
            continue
    raise ConfigError(f"--set {word}: not a TOML value")


def _view(kind: type[Any], stage: Stage, prefix: str = "") -> type[Any]:
    """A subclass of a configuration class that shows tyro only the flags of a stage."""
    hints = get_type_hints(kind, include_extras=True)
    shown: list[tuple[str, Any, Any]] = []
    for item in dataclasses.fields(kind):
        key, hint = prefix + item.name, hints[item.name]
        if dataclasses.is_dataclass(hint):
            hint = _view(cast("type[Any]", hint), stage, f"{key}.")
            visible = any(name.startswith(f"{key}.") for name in flags(stage))
            default = dataclasses.field(default_factory=hint)
        else:
            visible, default = key in flags(stage), item.default
        shown.append((item.name, hint if visible else Annotated[hint, Suppress], default))
    return dataclasses.make_dataclass(kind.__name__, shown, bases=(kind,), frozen=True, kw_only=True)


def _copy(node: Any, kind: type[Any]) -> Any:
    """The values of one configuration in another class with the same fields."""
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for item in dataclasses.fields(kind):
        if hasattr(node, item.name):
            value = getattr(node, item.name)
            values[item.name] = _copy(value, hints[item.name]) if dataclasses.is_dataclass(value) else value
    return kind(**values)
