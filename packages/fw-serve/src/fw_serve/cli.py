"""The `fw-serve` command: the table of its commands. `fw_core.commands` runs them."""

import sys
from collections.abc import Sequence

from fw_core.commands import Command, Program, run

_OPTIONS = "fw_serve.options"
_KEYS = "fw_serve.key_commands"

PROGRAM = Program(
    name="fw-serve",
    description="Serve worlds over HTTP, with an API in the shape of OpenAI's Videos API and a web page.",
    commands={
        "up": Command(
            help="start the service",
            target="fw_serve.up:up",
            options=f"{_OPTIONS}:UpOptions",
            usage="[CHECKPOINT --port N ...]",
        ),
        "key add": Command(
            help="create an API key and show it once",
            target=f"{_KEYS}:add",
            options=f"{_OPTIONS}:KeyAddOptions",
            usage="NAME",
        ),
        "key list": Command(
            help="list the API keys and their limits", target=f"{_KEYS}:list_all", options=f"{_OPTIONS}:KeyOptions"
        ),
        "key revoke": Command(
            help="revoke an API key", target=f"{_KEYS}:revoke", options=f"{_OPTIONS}:KeyRevokeOptions", usage="ID"
        ),
    },
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. `argv` defaults to the process arguments."""
    return run(PROGRAM, argv)


if __name__ == "__main__":
    sys.exit(main())
