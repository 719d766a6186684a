"""The `fw` command: a dispatcher that imports a sub-command only when it is chosen.

`fw --help` therefore imports neither torch nor any of our libraries. Exit codes: 0 done, 1 failure, 2 wrong usage or
bad input, 130 interrupted.
"""

import os
import sys
from collections.abc import Callable, Sequence

COMMANDS: dict[str, str] = {
    "doctor": "Say whether this machine can run the main job, and what is missing and how to get it.",
    "demo": "Run everything once at a small size: toy videos, annotate, train, generate, report.",
    "generate": "Make a world (video, depth, points, cameras) from an image, a prompt and a camera path.",
    "view": "Show a clip of a dataset, or a generated world, in the browser: points and cameras.",
    "convert": "Turn a published .pth (FantasyWorld, Wan VAE, UMT5, CLIP) into safetensors.",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one `fw` command and return its exit code. `argv` defaults to the process arguments."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0 if arguments else 2
    name = arguments.pop(0)
    if name not in COMMANDS:
        print(f"error: there is no command {name!r}\n\n{_usage()}", file=sys.stderr)
        return 2
    try:
        return _command(name)(arguments)
    except (ValueError, FileNotFoundError, NotADirectoryError, PermissionError) as error:
        if os.environ.get("FW_DEBUG") == "1":
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _command(name: str) -> Callable[[list[str]], int]:
    if name == "doctor":
        from fw_app.doctor import main as command
    elif name == "demo":
        from fw_app.demo import main as command
    elif name == "view":
        from fw_app.view import main as command
    elif name == "convert":
        from fw_app.convert import main as command
    else:
        from fw_app.generate import main as command
    return command


def _usage() -> str:
    rows = "\n".join(f"  {name:10s} {text}" for name, text in COMMANDS.items())
    return (
        "usage: fw COMMAND [OPTIONS]\n\n"
        f"{rows}\n\n"
        "`fw COMMAND --help` lists the options of one command; FW_DEBUG=1 shows the traceback of an error.\n"
        "See also: fw-data --help (annotate raw videos), fw-train --help (train)."
    )


if __name__ == "__main__":
    sys.exit(main())
