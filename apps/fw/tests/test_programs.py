"""All four programs behave alike: help, unknown commands, missing files."""

from importlib import import_module
from pathlib import Path

import pytest

from fw_app.cli import PROGRAM as FW

MISSING = {
    "fw": ["generate", "{}.png", "--out", "world", "--trajectory", "{}.json"],
    "fw-data": ["validate", "{}"],
    "fw-train": ["stage1", "tiny", "--data", "{}", "--out", "run"],
    "fw-serve": ["up", "{}", "--data", "data"],
}
"""Words of a command that reads a file, whose name replaces `{}`."""


@pytest.fixture(params=sorted(MISSING))
def program(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FW_DEBUG", raising=False)
    return request.param


def run(program: str, words: list[str]) -> int:
    name = {"fw": "fw_app"}.get(program, program.replace("-", "_"))
    return import_module(f"{name}.cli").main(words)


def test_help_lists_every_command(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(program, ["--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: {program} COMMAND")
    name = {"fw": "fw_app"}.get(program, program.replace("-", "_"))
    for command in import_module(f"{name}.cli").PROGRAM.commands:
        assert f"\n  {command}" in shown
    assert run(program, []) == 2
    assert run(program, ["--version"]) == 0
    assert f"{program} " in capsys.readouterr().out


def test_an_unknown_command_is_one_line(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(program, ["nonsense"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"{program}: error: unknown command 'nonsense'")
    assert error.count("\n") == 1


def test_a_missing_file_is_one_line_that_names_it(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(program, [word.format("no_such_file") for word in MISSING[program]]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"{program}: error: ")
    assert "no_such_file" in error
    assert error.count("\n") == 1


def test_fw_lists_the_other_programs() -> None:
    assert all(f"\n  {name} " in FW.usage() for name in ("fw-data", "fw-train", "fw-serve"))
