"""`fw view`: a clip of a dataset, or a generated world, in the browser until Ctrl-C. `fw_app.viewer` does the work."""

import threading

from fw_app.options import ViewOptions


def view(options: ViewOptions) -> None:
    """Serve until Ctrl-C."""
    from fw_app.viewer import load, serve

    server = serve(load(options.source, options.clip), host=options.host, port=options.port)
    print(f"open http://{options.host}:{server.get_port()} in a browser; Ctrl-C ends it")
    try:
        threading.Event().wait()
    finally:
        server.stop()
