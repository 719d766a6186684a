"""The dispatcher: help, exit codes and one line for every error that a user can cause."""

import sys
import types

import pytest

from fw_core.commands import Command, Program, run


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Program:
    module = types.ModuleType("fw_core_test_commands")

    def echo(words: list[str]) -> int:
        print(" ".join(words))
        return len(words)

    def broken(words: list[str]) -> None:
        errors = {
            "value": ValueError("frames is 18; 17 is the nearest"),
            "file": FileNotFoundError(2, "No such file or directory", "photo.jpg"),
            "disk": OSError(28, "No space left on device", "out/world.mp4"),
            "state": RuntimeError("the database is gone"),
            "bug": KeyError("x"),
            "stop": KeyboardInterrupt(),
        }
        raise errors[words[0]]

    module.echo, module.broken = echo, broken  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.delenv("FW_DEBUG", raising=False)
    commands = {
        "echo": Command(help="print the words", target=f"{module.__name__}:echo", usage="WORDS"),
        "broken": Command(help="fail", target=f"{module.__name__}:broken"),
        "absent": Command(help="a module that is never imported", target="no_such_module:main"),
    }
    return Program(name="fw-test", description="A test.", commands=commands, moved={"toy": "fw-toy make"})


def test_help_lists_all_commands_in_order_and_imports_none(
    program: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(program, ["--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: fw-test COMMAND")
    assert text.index("echo WORDS") < text.index("broken") < text.index("absent")
    assert run(program, []) == 2


def test_the_command_gets_the_words_and_gives_the_code(program: Program, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(program, ["echo"]) == 0
    assert run(program, ["echo", "a", "--b"]) == 2
    assert capsys.readouterr().out == "\na --b\n"
    assert run(program, ["--version"]) == 0


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("value", "fw-test: error: frames is 18; 17 is the nearest\n"),
        ("file", "fw-test: error: photo.jpg: No such file or directory\n"),
        ("disk", "fw-test: error: out/world.mp4: No space left on device\n"),
        ("state", "fw-test: error: the database is gone\n"),
    ],
)
def test_errors_are_one_line(program: Program, capsys: pytest.CaptureFixture[str], kind: str, line: str) -> None:
    assert run(program, ["broken", kind]) == 2
    assert capsys.readouterr().err == line


def test_bugs_show_their_traceback_and_interrupts_do_not(program: Program, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError):
        run(program, ["broken", "bug"])
    assert run(program, ["broken", "stop"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_debugging_shows_every_traceback(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FW_DEBUG", "1")
    with pytest.raises(ValueError, match="18"):
        run(program, ["broken", "value"])


def test_an_unknown_command_gets_the_one_that_was_meant(program: Program, capsys: pytest.CaptureFixture[str]) -> None:
    for word, hint in (("ecko", "'echo'"), ("toy", "fw-toy make"), ("zzz", "echo, broken, absent")):
        assert run(program, [word]) == 2
        assert hint in capsys.readouterr().err
