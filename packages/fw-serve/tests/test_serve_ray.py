"""The same service on Ray Serve: killed replicas cost neither their job an attempt nor their client an error."""

import importlib
import importlib.util
import os
import re
import signal
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from tests.stub_server.server_process import wait_until

from fw_serve.jobs.keys import KeyRing
from fw_serve.jobs.store import JobStore
from fw_serve.settings import Scale, Settings

LEASE_S = 2.0
BUSY = ("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S",
        "RAY_worker_register_timeout_seconds", "RAY_raylet_start_wait_time_s")  # fmt: skip
PATIENCE_S = 600
"""Ten times what a start takes on an idle machine."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, module_server):
    """A server of two models: their workers, two each, and the answering process are replicas of a Ray cluster here."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("install fw-serve[ray]")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        folder = tmp_path_factory.mktemp("ray")
        patch.setenv("FW_SERVE_TEST", str(folder))  # identifies the replicas among all processes
        for name in BUSY:  # Ray gives up a proxy or worker that a busy machine starts slowly
            patch.setenv(name, str(PATIENCE_S))
        yield module_server(
            folder, engine="ray", workers=2, models=["stub", "second"], lease_s=LEASE_S, seconds=float(PATIENCE_S)
        )


def replicas(cluster, name) -> list[int]:
    """Processes of a deployment."""
    mark, found = f"FW_SERVE_TEST={cluster.folder}".encode(), []
    title = re.compile(rf"ServeReplica:fantasy-world:{name}(?![-\w])".encode())
    for process in Path("/proc").glob("[0-9]*"):
        try:
            ours = mark in (process / "environ").read_bytes()
            if ours and title.search((process / "cmdline").read_bytes()):
                found.append(int(process.name))
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_each_model_has_replicas_of_its_own(cluster, image):
    wait_until(lambda: {card["id"] for card in cluster.http.get("/v1/models").json()["data"]} == {"stub", "second"})
    assert len(replicas(cluster, "Workers")) == len(replicas(cluster, "Workers-2")) == 2
    store = JobStore(f"sqlite:///{cluster.folder / 'data' / 'jobs.db'}")
    for model, deployment in (("stub", "Workers"), ("second", "Workers-2")):
        video = cluster.create("hold=" + str(gate := cluster.folder / f"gate-{model}"), image, model=model).json()["id"]
        wait_until(lambda: cluster.get(video)["status"] == "in_progress", PATIENCE_S)  # noqa: B023
        job = store.get(video)
        assert job is not None
        assert any(f"-{pid}-" in str(job.worker) for pid in replicas(cluster, deployment))
        gate.touch()
        assert cluster.finished(video, PATIENCE_S)["model"] == model
    store.close()


@pytest.mark.slow
def test_replicas_that_are_killed_lose_no_job_and_no_request(cluster, image, tmp_path):
    store = JobStore(f"sqlite:///{cluster.folder / 'data' / 'jobs.db'}")
    gate = tmp_path / "gate"
    held = cluster.create(f"held hold={gate}", image).json()["id"]
    wait_until(lambda: cluster.get(held)["status"] == "in_progress", PATIENCE_S)
    others = [cluster.create(f"job{n}", image).json()["id"] for n in range(10)]
    job = store.get(held)
    assert job is not None
    first = next(pid for pid in replicas(cluster, "Workers") if f"-{pid}-" in str(job.worker))
    os.kill(first, signal.SIGKILL)
    (api,) = replicas(cluster, "Api")
    os.kill(api, signal.SIGKILL)
    answers = [cluster.http.get(f"/v1/videos/{video}").status_code for video in others * 10]
    assert set(answers) == {200}
    gate.touch()
    ends = [cluster.finished(video, PATIENCE_S) for video in (held, *others)]
    assert {end["status"] for end in ends} == {"completed"}
    assert [end["attempts"] for end in ends] == [1] * 11, "a replica that is killed costs its job no attempt"
    ended = [line for line in cluster.lines() if line.startswith(("end held", "end job"))]
    assert len(ended) == len(set(ended)) == 11

    assert replicas(cluster, "Api") != [api]
    wait_until(lambda: len(replicas(cluster, "Workers")) == 2, PATIENCE_S, what="a new replica")
    running = cluster.create("steps=1000 pause=0.05", image).json()["id"]
    wait_until(lambda: cluster.get(running)["step"] > 0, PATIENCE_S)
    assert cluster.terminate() == 0
    given_back = store.get(running)
    assert given_back is not None
    assert (given_back.status, given_back.attempts) == ("queued", 0), "a service that is stopped gives its job back"
    store.close()


@pytest.fixture
def on_ray(monkeypatch):
    """`fw_serve.ray` over a cluster that is only said to be there: importing Ray takes longer than these tests."""
    ray: Any = ModuleType("ray")
    serve: Any = ModuleType("ray.serve")
    ray.serve = serve
    ray.made, ray.count, ray.resources = {}, 1, {}
    ray.nodes = lambda: [{"Alive": True}] * ray.count + [{"Alive": False}]
    ray.cluster_resources = lambda: ray.resources
    serve.Application = object
    serve.ingress = lambda _build: lambda: "an application"

    def deployment(_target, *, name, **options):
        ray.made[name] = options
        return SimpleNamespace(bind=lambda *bound: options.update(bound=bound) or name)

    serve.deployment = deployment
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.serve", serve)
    monkeypatch.delitem(sys.modules, "fw_serve.ray", raising=False)
    yield importlib.import_module("fw_serve.ray")
    del sys.modules["fw_serve.ray"]


def test_a_machine_without_room_and_nodes_without_a_shared_store_are_refused(on_ray, tmp_path):
    on_ray.ray.resources = {"CPU": 2.0, "GPU": 1.0}
    on_ray._check_room(Scale(workers=2, cpus_per_worker=0.5, gpus_per_worker=0.5), 1)
    with pytest.raises(ValueError, match="4 workers"):
        on_ray._check_room(Scale(workers=2, cpus_per_worker=0.5, gpus_per_worker=0.5), 2)
    assert on_ray._gpus(Scale()) == 1.0
    with pytest.raises(ValueError, match="--gpus-per-worker"):
        on_ray._check_room(Scale(workers=2, cpus_per_worker=0.5), 1)
    assert on_ray._gpus(Scale(parallel=2)) == 2.0
    assert on_ray._devices(Scale(parallel=2)) == ("cuda:0", "cuda:1")
    assert on_ray._devices(Scale(parallel=2, gpus_per_worker=0)) == ("cpu", "cpu")
    with pytest.raises(ValueError, match="with --parallel 2 it must be 2"):
        on_ray._devices(Scale(parallel=2, gpus_per_worker=0.5))
    on_ray.ray.count, on_ray.ray.resources = 2, {"CPU": 2.0}
    assert on_ray._gpus(Scale()) == 0.0
    on_ray._check_shared(Settings(data=tmp_path, database="postgresql+psycopg://db/fw"))
    with pytest.raises(ValueError, match="PostgreSQL"):
        on_ray._check_shared(Settings(data=tmp_path, database=f"sqlite:///{tmp_path}/jobs.db"))


def test_a_serve_config_gives_the_options_of_the_command(on_ray, tmp_path):
    args = {"checkpoint": str(tmp_path), "data": str(tmp_path / "data"), "workers": 4, "gpus_per_worker": 0.5,
            "model": [f"large={tmp_path}"]}  # fmt: skip
    with pytest.raises(ValueError, match="key add"):
        on_ray.build(args)  # the proxies of a cluster listen for others
    with pytest.raises(ValueError, match="wrokers"):
        on_ray.build({**args, "wrokers": 4})
    KeyRing(store := JobStore(f"sqlite:///{tmp_path / 'data' / 'jobs.db'}")).add("anna", per_minute=1, max_queued=1)
    store.close()
    assert on_ray.build(args) == "Api"
    api, workers = on_ray.ray.made["Api"], on_ray.ray.made["Workers"]
    assert (api["num_replicas"], api["bound"]) == (1, ("Workers", "Workers-2"))
    assert (workers["num_replicas"], workers["ray_actor_options"]) == (4, {"num_cpus": 1.0, "num_gpus": 0.5})
    assert workers["bound"][1].options["checkpoint"] == str(tmp_path)
    large = on_ray.ray.made["Workers-2"]
    assert (large["num_replicas"], large["bound"][1].options["name"]) == (4, "large")
    on_ray.build({**args, "parallel": 2, "gpus_per_worker": 2})
    workers = on_ray.ray.made["Workers"]
    assert (workers["ray_actor_options"]["num_gpus"], workers["bound"][1].devices) == (2, ("cuda:0", "cuda:1"))
