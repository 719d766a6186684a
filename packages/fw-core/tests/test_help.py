"""Help of commands: joined lines, no empty defaults, required options in the usage."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest
from tyro.conf import Positional, arg

from fw_core.help import parse


@dataclass(frozen=True, kw_only=True)
class Inner:
    """More options."""

    depth: float | None = None
    """Depth in
    meters."""


@dataclass(frozen=True, kw_only=True)
class Shop:
    """Sell things.

    A second paragraph that is certainly longer than one line of a terminal of eighty columns, so that it is wrapped.
    """

    name: Positional[str]
    """Name of
    the shop. Default: none."""
    out: Path
    """Output folder."""
    kind: Literal["small", "large"] | None = None
    """Kind of shop."""
    color: Annotated[str, arg(help="Color of the door.", metavar="COLOR")] = "red"
    inner: Inner = Inner()


def shown(capsys: pytest.CaptureFixture[str], usage: str = "") -> str:
    with pytest.raises(SystemExit) as ended:
        parse(Shop, ["--help"], prog="sell", usage=usage)
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_help_is_readable(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = shown(capsys, "NAME --out OUT")
    assert text.startswith("usage: sell NAME --out OUT [OPTIONS]\n\nSell things.\n\nA second paragraph")
    assert max(map(len, text.splitlines())) <= 80
    flat = " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())
    assert "Name of the shop. Default: none. --" not in flat
    assert "Name of the shop. Default: none. (required)" in flat
    assert "--out PATH Output folder. (required)" in flat
    assert "--kind {small,large} Kind of shop. --color COLOR Color of the door. (default: red)" in flat
    assert "--inner.depth FLOAT Depth in meters." in flat
    assert "None" not in flat


def test_values_are_parsed_as_before() -> None:
    words = ["corner", "--out", "a/b", "--kind", "large", "--inner.depth", "2.5"]
    assert parse(Shop, words, prog="sell") == Shop(name="corner", out=Path("a/b"), kind="large", inner=Inner(depth=2.5))
    assert parse(Shop, ["x", "--out", "y", "--kind", "None"], prog="sell").kind is None


def test_an_error_shows_no_description(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(Shop, ["corner"], prog="sell")
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "--out" in printed.err
