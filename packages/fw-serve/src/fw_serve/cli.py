"""The `fw-serve` command. Nothing heavy is imported before a command needs it.

Exit codes: 0 done, 1 failure, 2 wrong usage or bad input, 130 interrupted.
"""

import os
import sys
from collections.abc import Sequence

USAGE = """\
usage: fw-serve COMMAND ...

  fw-serve up [CHECKPOINT --port N ...]   serve worlds over HTTP
  fw-serve key add NAME                   make an API key; it is shown once
  fw-serve key list                       who has a key
  fw-serve key revoke ID                  end a key

`fw-serve COMMAND --help` lists the options of one command; FW_DEBUG=1 shows the traceback of an error.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. `argv` defaults to the process arguments."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if words else 2
    try:
        if words[0] == "up":
            return _up(words[1:])
        if words[:2] in (["key", "add"], ["key", "list"], ["key", "revoke"]):
            return _key(words[1], words[2:])
        if words[0] == "key" and words[1:2] in ([], ["-h"], ["--help"]):
            print(USAGE, end="")
            return 0 if words[1:] else 2
    except (ValueError, OSError) as error:
        if os.environ.get("FW_DEBUG") == "1":
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print(f"error: there is no command {' '.join(words[:2])!r}\n\n{USAGE}", file=sys.stderr, end="")
    return 2


def _up(words: list[str]) -> int:
    import tyro

    from fw_serve.options import UpOptions

    options = tyro.cli(UpOptions, prog="fw-serve up", args=words)
    from fw_serve.up import up

    return up(options)


def _key(verb: str, words: list[str]) -> int:
    import tyro

    from fw_serve.options import KeyAddOptions, KeyOptions

    options_class = KeyAddOptions if verb == "add" else KeyOptions
    named = verb != "list" and bool(words) and not words[0].startswith("-")
    name = words.pop(0) if named else ""
    options = tyro.cli(options_class, prog=f"fw-serve key {verb}{'' if verb == 'list' else ' NAME'}", args=words)

    from fw_serve.jobs.keys import KeyRing
    from fw_serve.jobs.store import JobStore
    from fw_serve.prepare import database_url

    if verb != "list" and not name:
        raise ValueError(f"say which: fw-serve key {verb} {'NAME' if verb == 'add' else 'ID'}")
    options.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    store = JobStore(database_url(options.database, options.data))
    ring = KeyRing(store)
    if isinstance(options, KeyAddOptions):
        key = ring.add(name, per_minute=options.per_minute, max_queued=options.max_queued)
        print(f"{key}\nKeep it: it cannot be shown again. Send it as `Authorization: Bearer ...`.")
    elif verb == "list":
        for known in ring.all():
            state = "revoked" if known.revoked_at is not None else "valid"
            limits = f"{known.per_minute} a minute, {known.max_queued} waiting"
            print(f"{known.id}  {state:8}{limits:28}{known.name}")
    elif not ring.revoke(name):
        raise ValueError(f"there is no valid key with id {name!r}; `fw-serve key list` shows them")
    store.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
