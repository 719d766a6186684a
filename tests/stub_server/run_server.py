"""A server with the stub engine, as a process that tests can kill: run_server.py SETTINGS.json

SETTINGS: data, port, database (optional), workers, models (names; "stub" alone), journal, files (a folder that every
job's result is copied from), lease_s, keys, limits, job_timeout_s, connections, memory_kills (a file with a byte for
every process that the system is to have killed for memory), settings and worker (more fields of Settings and
WorkerSettings).
"""

import gc
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import uvicorn

from fw_serve.api.app import create_app
from fw_serve.http.connections import ConnectionLimits
from fw_serve.jobs.store import JobStore
from fw_serve.settings import Limits, Scale, Settings, WorkerSettings
from fw_serve.supervisor import Supervisor
from fw_serve.up import server_options

LIMITS = {"frames": 161, "pixels": 1280 * 720, "free_bytes": 0}
"""Tests use sizes and lengths that the stub was never trained for, on any disk."""


def main() -> None:
    given = json.loads(Path(sys.argv[1]).read_text())
    data = Path(given["data"])
    data.mkdir(exist_ok=True)
    database = given.get("database") or f"sqlite:///{data / 'jobs.db'}"
    settings = Settings(
        data=data, database=database, keys=given.get("keys", False), limits=Limits(**LIMITS | given.get("limits", {})),
        **given.get("settings", {}),
    )  # fmt: skip
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.getenv("PYTHONPATH")]))
    worker = WorkerSettings(
        database=database,
        data=str(data),
        name="",
        engine="stub_engine:load",
        options={"journal": given.get("journal"), "files": given.get("files")},
        lease_s=given.get("lease_s", 5.0),
        job_timeout_s=given.get("job_timeout_s"),
        poll_s=0.02,
        **given.get("worker", {}),
    )
    models = [
        replace(worker, order=order, options=worker.options | {"name": name})
        for order, name in enumerate(given.get("models", ["stub"]))
    ]
    if given.get("engine") == "ray":
        from fw_serve import ray

        scale = Scale(workers=given.get("workers", 1), cpus_per_worker=0.25)
        ray.run(settings, models, scale, host="127.0.0.1", port=given["port"])
        return
    store = JobStore(database, keep_s=settings.keep_s)
    kills = Path(given["memory_kills"]) if "memory_kills" in given else None
    supervisor = Supervisor(
        models * given.get("workers", 1), store, check_s=0.02,
        memory_kills=lambda: len(kills.read_text()) if kills is not None and kills.exists() else 0,
    )  # fmt: skip
    gc.freeze()
    uvicorn.run(
        create_app(settings, store, supervisor),
        host="127.0.0.1",
        port=given["port"],
        **server_options(ConnectionLimits(**given.get("connections", {}))),
    )


if __name__ == "__main__":
    main()
