"""`fw view`: serve the viewer of `fw_app.viewer` until Ctrl-C."""

import threading

from fw_app.options import ViewOptions


def view(options: ViewOptions) -> None:
    """Serve until Ctrl-C."""
    from fw_app.viewer import load, serve

    server = serve(load(options.source, options.clip), host=options.host, port=options.port)
    print(f"open http://{options.host}:{server.get_port()} in a browser; Ctrl-C stops the server")
    try:
        threading.Event().wait()
    finally:
        server.stop()
