"""`fw view`: a clip of a dataset, or a generated world, in the browser until Ctrl-C. `fw_app.viewer` does the work."""

import threading

import tyro

from fw_app.options import ViewOptions


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
