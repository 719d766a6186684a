"""One dispatcher for `fw`, `fw-data`, `fw-train` and `fw-serve`: same help, same error line, same exit codes.

A program is a table of commands. Help lists them without importing any; a command's module is imported when it runs.

Exit codes: 0 success, 1 failed or completed with problems, 2 wrong usage or bad input, 130 interrupted, 141 if the
reader of the output is gone (`fw --help | head`). A command may return other codes. With FW_DEBUG=1 errors show their
traceback.
"""

import difflib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from fw_core.help import parse

FAILED = 1
WRONG_USE = 2
INTERRUPTED = 130
OUTPUT_CLOSED = 141


def exit_code(error: Exception) -> int:
    """Exit code of an error: 2 for bad input and operating-system errors, 1 for everything else."""
    return WRONG_USE if isinstance(error, (ValueError, OSError)) else FAILED


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command of a program."""

    help: str
    """One line for the list of commands."""
    target: str
    """`module:function`. The function returns an exit code or None. It takes the parsed options if there is a class for
    them, else the words after the command's name."""
    options: str = ""
    """`module:class` of a dataclass that the words after the command's name are parsed into."""
    usage: str = ""
    """Arguments to show after the name in the list of commands, such as `RAW OUT`."""
    extra: str = ""
    """Requirement to install if a module of this command is missing, such as `fw-data[toy]`."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program and its commands."""

    name: str
    """The program as typed, such as `fw-data`."""
    description: str
    """One sentence for the top of the help."""
    commands: Mapping[str, Command]
    """By name, in the order of the help. A name of two words, such as `key add`, is a sub-command."""
    notes: str = ""
    """Paragraphs for the end of the help."""
    moved: Mapping[str, str] | None = None
    """Name of a command of another program -> the command to type instead."""
    exit_code: Callable[[Exception], int] = exit_code
    """Exit code of an error that reaches the dispatcher."""

    def usage(self) -> str:
        """The help text."""
        left = {name: f"{name} {command.usage}".rstrip() for name, command in self.commands.items()}
        width = min(34, max(map(len, left.values())))
        rows = []
        for name, command in self.commands.items():
            gap = "\n" + " " * (width + 4) if len(left[name]) > width else " " * (width + 2 - len(left[name]))
            rows.append(f"  {left[name]}{gap}{command.help}")
        parts = [f"usage: {self.name} COMMAND ...", self.description, "commands:\n" + "\n".join(rows)]
        parts.append(
            f"`{self.name} COMMAND --help` shows the options of a command; FW_DEBUG=1 shows the traceback of an error."
        )
        return "\n\n".join([*parts, self.notes] if self.notes else parts) + "\n"


def run(program: Program, argv: Sequence[str] | None = None) -> int:
    """Run one command of a program and return its exit code.

    ValueError and OSError, which bad input and the machine cause, become one line on standard error; so do RuntimeError
    and FloatingPointError. Anything else is a bug and shows its traceback; with FW_DEBUG=1 every error does.

    Args:
        program: the table of commands.
        argv: words after the program's name; None takes those of this process.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in ("-V", "--version"):
        from fw_core import __version__

        print(f"{program.name} {__version__}")
        return 0
    name = next((name for name in (" ".join(words[:2]), *words[:1]) if name in program.commands), None)
    if name is None:
        group = bool(words) and any(known.startswith(f"{words[0]} ") for known in program.commands)
        asked = words[group : group + 1]
        if not asked or asked[0] in ("-h", "--help", "help"):
            print(program.usage(), end="")
            return 0 if asked else WRONG_USE
        return fail(program.name, _unknown(program, " ".join(words[: 1 + group])))
    command, rest = program.commands[name], words[len(name.split()) :]
    try:
        code = _start(program, name, command, rest) or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at its end
        return OUTPUT_CLOSED
    except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
        if os.environ.get("FW_DEBUG") == "1":
            raise
        return fail(program.name, describe(error), program.exit_code(error))
    except KeyboardInterrupt:
        print(f"{program.name}: interrupted", file=sys.stderr)
        return INTERRUPTED


def fail(program: str, message: str, code: int = WRONG_USE) -> int:
    """Print `PROGRAM: error: MESSAGE` on standard error and return the exit code."""
    sys.stdout.flush()
    print(f"{program}: error: {message}", file=sys.stderr)
    return code


def describe(error: Exception) -> str:
    """An error as one line: an operating-system error names its file and the reason, without a number."""
    if isinstance(error, OSError) and error.strerror:
        files = [str(name) for name in (error.filename, error.filename2) if name is not None]
        return f"{' -> '.join(files)}: {error.strerror}" if files else error.strerror
    return str(error) or type(error).__name__


def nearest(word: str, known: Sequence[str]) -> str | None:
    """The known word closest to a misspelled one, if any is close."""
    found = difflib.get_close_matches(word, known, n=1)
    return found[0] if found else None


def _start(program: Program, name: str, command: Command, words: list[str]) -> Any:
    try:
        if not command.options:
            return _load(command.target)(words)
        options_class: Any = _load(command.options)
    except ModuleNotFoundError as error:
        if not command.extra:
            raise
        needs = f"`{program.name} {name}` needs the module {error.name}"
        return fail(program.name, f"{needs}; install it: pip install '{command.extra}'")
    options = parse(options_class, words, prog=f"{program.name} {name}", usage=command.usage)
    return _load(command.target)(options)


def _unknown(program: Program, word: str) -> str:
    if program.moved and word in program.moved:
        return f"{word!r} is not a command of {program.name}; use `{program.moved[word]}`"
    meant = nearest(word, list(program.commands))
    hint = f"did you mean {meant!r}?" if meant else f"commands are {', '.join(program.commands)}"
    return f"unknown command {word!r}; {hint}"


def _load(target: str) -> Callable[..., Any]:
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)
