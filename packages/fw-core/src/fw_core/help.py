"""Command lines from dataclasses (tyro), with readable help.

tyro takes the text of an option from the string below its field. This module joins the lines of that text, leaves out
defaults that say nothing (None, an empty text or list), shows an optional value as `STR` instead of `{None}|STR`, wraps
the description, and shows required options in the usage.
"""

import ast
import contextlib
import dataclasses
import inspect
import io
import re
import shutil
import textwrap
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

Options = TypeVar("Options")

_METAVARS = {str: "STR", int: "INT", float: "FLOAT", Path: "PATH"}


def parse(
    options: type[Options],
    words: Sequence[str],
    *,
    prog: str,
    usage: str = "",
    description: str | None = None,
    default: Options | None = None,
) -> Options:
    """The options that the words of a command line give; prints help or the error, and exits (0 or 2).

    Args:
        options: a dataclass, see `with_help`.
        words: the words after the name of the command.
        prog: name of the command in the help.
        usage: arguments after `prog` in the usage, such as `RAW OUT`; by default, the positional ones.
        description: text for the top of the help; by default, the docstring of the dataclass.
        default: values of options that are not given.
    """
    import tyro

    shown = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    try:
        with contextlib.redirect_stdout(shown):  # tyro prints help there, and errors on standard error
            return tyro.cli(
                with_help(options), prog=prog, args=list(words), default=cast("Any", default), description=""
            )
    except SystemExit:
        first, _, rest = _written(shown).partition("\n\n")
        if not first.startswith("usage:"):  # a shell completion
            print(_written(shown), end="")
        elif rest:
            first = f"usage: {prog} {usage} [OPTIONS]" if usage else first
            text = description if description is not None else inspect.getdoc(options) or ""
            print(f"{first}\n\n{_wrapped(text)}\n\n{rest.lstrip()}", end="")
        raise


def _written(file: io.TextIOWrapper) -> str:
    file.seek(0)
    return file.read()


def with_help(kind: type[Options]) -> type[Options]:
    """A dataclass whose annotations have been extended, in place, by the help texts of its fields."""
    from tyro.conf import arg

    if "_has_help" in vars(kind):
        return kind
    setattr(kind, "_has_help", True)  # noqa: B010 - not a field
    texts = {name: text for base in reversed(kind.__mro__) for name, text in _texts(base).items()}
    hints = get_type_hints(kind, include_extras=True)
    own = dict(vars(kind).get("__annotations__", {}))
    for field in dataclasses.fields(cast("Any", kind)):
        hint = hints[field.name]
        plain, *metadata = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        if dataclasses.is_dataclass(plain):
            with_help(cast("type[Any]", plain))
            continue
        given = [note for note in metadata if hasattr(note, "help_behavior_hint")]
        text = next((note.help for note in given if note.help is not None), texts.get(field.name))
        own[field.name] = Annotated[
            Annotated[hint, _number_list()] if plain == _NUMBERS else hint,
            arg(
                help=text,
                metavar=next((note.metavar for note in given if note.metavar is not None), _metavar(plain)),
                help_behavior_hint=_hint_of(text or ""),
            ),
        ]
    kind.__annotations__ = own
    return kind


_NUMBERS = tuple[float, ...] | None


def _number_list() -> Any:
    """How an optional list of numbers is written: as one word, with commas."""
    from tyro.constructors import PrimitiveConstructorSpec

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="FLOAT,FLOAT,...",
        instance_from_str=lambda words: tuple(float(part) for part in words[0].split(",")),
        is_instance=lambda value: value is None or isinstance(value, tuple),
        str_from_instance=lambda value: ["None" if value is None else ",".join(f"{one:g}" for one in value)],
    )


def _texts(kind: type[Any]) -> dict[str, str]:
    """The string below every field in the source of a class, with its lines joined."""
    if not dataclasses.is_dataclass(kind):
        return {}
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    except (OSError, TypeError):  # made by make_dataclass: the class that it extends has the texts
        return {}
    assert isinstance(tree, ast.ClassDef)
    found: dict[str, str] = {}
    for field, after in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(after, ast.Expr):
            text = after.value.value if isinstance(after.value, ast.Constant) else None
            if isinstance(text, str):
                found[field.target.id] = "\n\n".join(" ".join(part.split()) for part in re.split(r"\n\s*\n", text))
    return found


def _hint_of(text: str) -> Any:
    told = "default:" in text.lower()

    def hint(label: str) -> str:
        label = re.sub(r"^\['(.*)'\]$", r"\1", label)
        return "" if told or label in ("None", "", "''") else f"(default: {label})"

    return hint


def _metavar(hint: Any) -> str | None:
    """Name of the value of an optional option; None leaves it to tyro."""
    if get_origin(hint) not in (Union, types.UnionType):
        return None
    members = [member for member in get_args(hint) if member is not type(None)]
    if len(members) != 1 or len(members) == len(get_args(hint)):
        return None
    if get_origin(members[0]) is Literal:
        return "{" + ",".join(map(str, get_args(members[0]))) + "}"
    if get_origin(members[0]) is tuple and set(get_args(members[0])) <= _METAVARS.keys():
        return " ".join(_METAVARS[part] for part in get_args(members[0]))
    return _METAVARS.get(members[0])


def _wrapped(text: str) -> str:
    width = min(100, shutil.get_terminal_size().columns)
    parts = re.split(r"\n\s*\n", text)
    return "\n\n".join(textwrap.fill(" ".join(part.split()), width) for part in parts)
