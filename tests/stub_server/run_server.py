"""A server with the stub engine, as a process that tests can kill: run_server.py SETTINGS.json

SETTINGS: data, port, database (optional), workers, journal, files (a folder that every job's result is copied from),
lease_s, keys, limits, job_timeout_s.
"""

import gc
import json
import os
import sys
from pathlib import Path

import uvicorn

from fw_serve.api.app import create_app
from fw_serve.jobs.store import JobStore
from fw_serve.settings import Limits, Scale, Settings, WorkerSettings
from fw_serve.supervisor import Supervisor
from fw_serve.up import SERVER


def main() -> None:
    given = json.loads(Path(sys.argv[1]).read_text())
    data = Path(given["data"])
    data.mkdir(exist_ok=True)
    database = given.get("database") or f"sqlite:///{data / 'jobs.db'}"
    settings = Settings(
        data=data, database=database, keys=given.get("keys", False), limits=Limits(**given.get("limits", {}))
    )
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    worker = WorkerSettings(
        database=database,
        data=str(data),
        name="",
        engine="stub_engine:load",
        options={"journal": given.get("journal"), "files": given.get("files")},
        lease_s=given.get("lease_s", 5.0),
        job_timeout_s=given.get("job_timeout_s"),
        poll_s=0.02,
    )
    if given.get("engine") == "ray":
        from fw_serve import ray

        scale = Scale(workers=given.get("workers", 1), cpus_per_worker=0.5)
        ray.run(settings, worker, scale, host="127.0.0.1", port=given["port"])
        return
    store = JobStore(database)
    supervisor = Supervisor(worker, store, [None] * given.get("workers", 1), check_s=0.02)
    gc.freeze()
    uvicorn.run(create_app(settings, store, supervisor), host="127.0.0.1", port=given["port"], **SERVER)


if __name__ == "__main__":
    main()
