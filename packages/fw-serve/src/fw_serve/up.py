"""`fw-serve up`: the API, the store and the workers, in one command, on this machine or on a Ray cluster."""

import gc
import logging
from typing import Any

from fw_serve.jobs.store import JobStore
from fw_serve.options import UpOptions
from fw_serve.prepare import prepare, scale_of, until_stopped
from fw_serve.supervisor import Supervisor

SERVER: dict[str, Any] = {"log_level": "warning", "timeout_graceful_shutdown": 5, "proxy_headers": False}
"""How uvicorn runs the application. Nothing here asks where a request came from, so a proxy's word is not needed."""


def up(options: UpOptions) -> int:
    """Serve until stopped. Returns the exit code.

    Raises:
        ValueError: an address that would be open to others without keys, or options that cannot be.
    """
    settings, worker = prepare(options)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    if options.engine == "ray":
        try:
            from fw_serve import ray
        except ModuleNotFoundError as error:
            raise ValueError(f"--engine ray needs {error.name}: pip install 'fw-serve[ray]'") from error
        ray.run(settings, worker, scale_of(options), host=options.host, port=options.port)
        return 0

    store = JobStore(settings.database)
    supervisor = None if options.only == "api" else Supervisor(worker, store, list(options.device))
    if options.only == "workers":
        assert supervisor is not None
        supervisor.start()
        print(f"working with {options.checkpoint} on {', '.join(options.device)}", flush=True)
        until_stopped()
        supervisor.stop()
        store.close()
        return 0

    import uvicorn

    from fw_serve.api.app import create_app

    app = create_app(settings, store, supervisor)
    where = f"http://{options.host}:{options.port}"
    print(f"serving {options.checkpoint} at {where} (keys {'on' if settings.keys else 'off'})", flush=True)
    gc.freeze()  # what was imported stays for good: the collector need not look at it again
    uvicorn.run(app, host=options.host, port=options.port, **SERVER)
    store.close()
    return 0
