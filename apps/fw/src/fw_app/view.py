"""`fw view`: a clip of a dataset, or a generated world, in the browser until Ctrl-C. `fw_app.viewer` does the work."""

import threading
from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True, kw_only=True)
class ViewOptions:
    """Show a clip of a dataset, or the folder that `fw generate` wrote, in the browser until Ctrl-C."""

    source: tyro.conf.Positional[Path]
    """A dataset of `fw-data annotate`, or the --out of `fw generate`."""
    clip: str = "0"
    """Dataset: number or id of the clip."""
    port: int = 8080
    """Where to serve the page; the next free one if it is taken."""
    host: str = "127.0.0.1"
    """Address to serve on; 0.0.0.0 lets other machines look."""


def main(argv: list[str]) -> int:
    """`fw view`: serve until Ctrl-C."""
    options = tyro.cli(ViewOptions, prog="fw view", args=argv)

    from fw_app.viewer import load, serve

    server = serve(load(options.source, options.clip), host=options.host, port=options.port)
    print(f"open http://{options.host}:{server.get_port()} in a browser; Ctrl-C ends it")
    try:
        threading.Event().wait()
    finally:
        server.stop()
    return 0
