"""`fw-serve up`: the API, the job store and the workers in one command, on this machine or on a Ray cluster."""

import gc
import logging
import resource
from contextlib import suppress
from typing import Any

from fw_serve.http.connections import ConnectionLimits, limited_protocol
from fw_serve.jobs.store import JobStore
from fw_serve.options import UpOptions
from fw_serve.prepare import connection_limits, on_devices, prepare, scale_of, until_stopped
from fw_serve.supervisor import Supervisor


def server_options(limits: ConnectionLimits) -> dict[str, Any]:
    """Settings of uvicorn. The application uses no client address, so headers of a proxy are ignored."""
    return {
        "http": limited_protocol(limits),
        "ws": "none",  # its connections would have no limits
        "timeout_keep_alive": limits.idle_s,
        "timeout_graceful_shutdown": 5,
        "log_level": "warning",
        "access_log": False,
        "proxy_headers": False,
        "server_header": False,
    }


def up(options: UpOptions) -> int:
    """Serve until stopped. Returns the exit code.

    Raises:
        ValueError: an address that would be open to others without keys, invalid options, or no database.
    """
    settings, workers = prepare(options)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    if options.traces:
        from fw_serve.http.tracing import set_up_tracing

        set_up_tracing()
    if options.engine == "ray":
        try:
            from fw_serve import ray
        except ModuleNotFoundError as error:
            raise ValueError(f"--engine ray needs {error.name}: pip install 'fw-serve[ray]'") from error
        ray.run(settings, workers, scale_of(options), host=options.host, port=options.port)
        return 0

    store = JobStore(settings.database, max_attempts=settings.max_attempts, keep_s=settings.keep_s)
    supervisor = (
        None if options.only == "api" else Supervisor(on_devices(workers, options.device, options.parallel), store)
    )
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
    address = f"http://{options.host}:{options.port}{settings.root_path}"
    print(f"serving {options.checkpoint} at {address} (keys {'on' if settings.keys else 'off'})", flush=True)
    _allow_files()
    gc.freeze()  # imported modules stay, so the collector can skip them
    uvicorn.run(app, host=options.host, port=options.port, **server_options(connection_limits(options)))
    store.close()
    return 0


def _allow_files() -> None:
    """Raise the number of open files to what the system allows: connections of few addresses exhaust the default."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
