"""Parameter names without the additions of other programs: wrappers of torch, pipeline prefixes, EMA copies."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

WRAPPED = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""Anywhere in a name: torch.compile, FSDP, activation checkpointing."""
PREFIXES = ("module.", "model.diffusion_model.", "diffusion_model.", "pipe.dit.")
"""At the start: DataParallel, ComfyUI (twice), DiffSynth."""
EMA_PREFIXES = ("model_ema.", "ema_model.", "ema.")
EMA_KEYS = ("ema", "model_ema", "ema_model", "ema_state_dict", "params_ema")
"""Entries of a training program's file with a moving average of the weights."""
WRAPPER_KEYS = ("state_dict", "model_state_dict", "model", "module", "generator")
"""Entries of a training program's file with the weights."""
_COUNTERS = ("decay", "num_updates", "step", "initted", "updates")


class PlainNames(NamedTuple):
    """Names of a model's parameters, found among the names of a file."""

    names: dict[str, str]
    """Name in the file -> plain name; only the parameters that are used."""
    notes: tuple[str, ...]
    """Removed prefixes; copies that were taken or left out."""


def plain_names(stored: Iterable[str]) -> PlainNames:
    """Plain names of the parameters in a file, with a note about every prefix that was removed.

    Of weights and an EMA of all of them, the EMA is taken. ValueError if two names become one.
    """
    names = {name: name for name in stored}
    notes: list[str] = []
    released = any("IRGBlock." in name for name in names)  # there `pipe.dit.` is part of the names
    for word in WRAPPED:
        names = _replaced(names, word, notes)
    changed = True
    while changed:
        before = dict(names)
        names = _choose_average(names, notes)
        for prefix in PREFIXES:
            if not (released and prefix == "pipe.dit."):
                names = _stripped(names, prefix, notes)
        changed = names != before
    if len(set(names.values())) < len(names):
        twice = next(plain for plain in names.values() if list(names.values()).count(plain) > 1)
        raise ValueError(f"the file has {twice!r} twice, under different prefixes: {', '.join(sorted(names)[:3])}, ...")
    return PlainNames(names, tuple(notes))


def unwrap(content: Any) -> tuple[Any, list[str]]:
    """The tensors by name inside a training program's file, and notes about the copy that was taken.

    Of weights and an EMA, the EMA is taken.
    """
    notes: list[str] = []
    while isinstance(content, Mapping):
        averages = [key for key in EMA_KEYS if key in content and not hasattr(content[key], "shape")]
        usable = [key for key in averages if isinstance(content[key], Mapping)]
        plain = [key for key in WRAPPER_KEYS if isinstance(content.get(key), Mapping)]
        if usable:
            others = f"; {plain[0]!r} was left out" if plain else ""
            notes.append(f"took the EMA of the weights ({usable[0]!r}){others}")
        elif averages:
            notes.append(f"left out the EMA ({averages[0]!r}), which has no parameter names")
        if not usable and not plain:
            break
        content = content[(usable or plain)[0]]
    return content, notes


def _replaced(names: dict[str, str], word: str, notes: list[str]) -> dict[str, str]:
    count = sum(word in plain for plain in names.values())
    if count:
        notes.append(f"removed {word!r} from {count} names")
    return {name: plain.replace(word, "") for name, plain in names.items()}


def _stripped(names: dict[str, str], prefix: str, notes: list[str]) -> dict[str, str]:
    """Without a prefix that all names have; ComfyUI's and DiffSynth's also select the transformer among other parts."""
    having = {name: plain for name, plain in names.items() if plain.startswith(prefix)}
    selects = prefix in ("model.diffusion_model.", "pipe.dit.")
    if not having or (len(having) < len(names) and not selects):
        return names
    left_out = len(names) - len(having)
    notes.append(f"removed the prefix {prefix!r}" + (f" and left out {left_out} other tensors" if left_out else ""))
    return {name: plain.removeprefix(prefix) for name, plain in having.items()}


def _choose_average(names: dict[str, str], notes: list[str]) -> dict[str, str]:
    for prefix in EMA_PREFIXES:
        average = {
            name: plain.removeprefix(prefix)
            for name, plain in names.items()
            if plain.startswith(prefix) and plain.removeprefix(prefix) not in _COUNTERS
        }
        rest = {name: plain for name, plain in names.items() if not plain.startswith(prefix)}
        if not average:
            continue
        if len(average) < len(rest):
            notes.append(f"left out {len(average)} tensors of an incomplete EMA ({prefix!r})")
            return rest
        notes.append(f"took the EMA of the weights ({prefix!r}); {len(rest)} other tensors were left out")
        return average
    return names
