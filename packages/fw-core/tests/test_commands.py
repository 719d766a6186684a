"""The dispatcher: help, exit codes and one line for every error that a user can cause."""

import os
import subprocess
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import pytest

from fw_core.commands import OUTPUT_CLOSED, Command, Program, run


@dataclass
class SizeOptions:
    size: int = 1


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

    def show(options: SizeOptions) -> None:
        print(options.size)

    module.echo, module.broken, module.show, module.SizeOptions = echo, broken, show, SizeOptions  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.delenv("FW_DEBUG", raising=False)
    commands = {
        "echo": Command(help="print the words", target=f"{module.__name__}:echo", usage="WORDS"),
        "broken": Command(help="fail", target=f"{module.__name__}:broken"),
        "absent": Command(help="a module that is never imported", target="no_such_module:main", extra="toys[all]"),
        "key add": Command(help="a sub-command", target=f"{module.__name__}:echo"),
        "key list": Command(
            help="a sub-command with options",
            target=f"{module.__name__}:show",
            options=f"{module.__name__}:SizeOptions",
        ),
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
    ("kind", "code", "line"),
    [
        ("value", 2, "fw-test: error: frames is 18; 17 is the nearest\n"),
        ("file", 2, "fw-test: error: photo.jpg: No such file or directory\n"),
        ("disk", 2, "fw-test: error: out/world.mp4: No space left on device\n"),
        ("state", 1, "fw-test: error: the database is gone\n"),
    ],
)
def test_errors_are_one_line(
    program: Program, capsys: pytest.CaptureFixture[str], kind: str, code: int, line: str
) -> None:
    assert run(program, ["broken", kind]) == code
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
    for word, hint in (("ecko", "'echo'"), ("toy", "fw-toy make"), ("zzz", "echo, broken, absent, key add")):
        assert run(program, [word]) == 2
        assert hint in capsys.readouterr().err


def test_sub_commands_and_options(program: Program, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(program, ["key", "add", "a"]) == 1
    assert run(program, ["key", "list", "--size", "3"]) == 0
    assert capsys.readouterr().out == "a\n3\n"
    assert run(program, ["key", "--help"]) == 0
    assert run(program, ["key"]) == 2
    assert run(program, ["key", "ad"]) == 2
    assert "'key add'" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        run(program, ["key", "list", "--size", "x"])
    assert stopped.value.code == 2


def test_a_missing_module_names_what_to_install(program: Program, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(program, ["absent"]) == 2
    assert "toys[all]" in capsys.readouterr().err


def test_a_reader_that_leaves_ends_a_command_quietly(tmp_path: Path) -> None:
    (tmp_path / "chatty.py").write_text("def talk(words):\n    for i in range(100_000):\n        print(i)\n")
    program = (
        "import sys; from fw_core.commands import Command, Program, run;"
        "command = Command(help='print', target='chatty:talk');"
        "sys.exit(run(Program(name='p', description='', commands={'talk': command}), ['talk']))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "0\n"
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == OUTPUT_CLOSED
