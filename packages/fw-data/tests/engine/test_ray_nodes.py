"""The Ray engine on a cluster of several nodes, of which one is lost and another one comes during a run."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.chaos.annotate import fingerprint
from tests.chaos.wall_videos import write_wall_videos
from tests.stub_server.server_process import wait_until

PATIENCE_S = 400
"""Ten times what a run takes on an idle machine."""

_TASK = '''
"""A task that says when it begins, and ends when its gate is open."""
import json
import os
import sys
import time
from pathlib import Path


class Gated:
    def __call__(self, job, progress):
        folder, gate, number = job
        (Path(folder) / f"began-{gate}-{number}-{os.getpid()}").touch()
        while not (Path(folder) / gate).exists():
            time.sleep(0.01)
        return number


if __name__ == "__main__":
    from fw_data.engine.ray import RayEngine
    from gated_task_of_ray_test import Gated

    jobs = [(sys.argv[1], gate, number) for gate in ("first", "second") for number in range(5)]
    with RayEngine() as engine, open(os.path.join(sys.argv[1], "results"), "w") as results:
        for done in engine.run(Gated(), jobs, lambda *_: None):
            print(json.dumps([done.job[1], done.value, done.error]), file=results)
'''


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cluster whose head has one CPU; `add_node` and `remove_node` change it."""
    (tmp_path / "gated_task_of_ray_test.py").write_text(_TASK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    for name in ("RAY_raylet_start_wait_time_s", "RAY_worker_register_timeout_seconds"):
        monkeypatch.setenv(name, str(PATIENCE_S))  # a busy machine starts processes slowly
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args=_node(1))
    monkeypatch.setenv("RAY_ADDRESS", str(made.address))
    yield made
    made.shutdown()


def _node(cpus: int) -> dict[str, Any]:
    return {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": 80 << 20}


@pytest.mark.slow
def test_a_cluster_that_shrinks_and_grows_is_slower_and_faster(cluster: Any, tmp_path: Path) -> None:
    node = cluster.add_node(num_cpus=2, object_store_memory=80 << 20)

    def began(gate: str) -> list[str]:
        return [path.name for path in tmp_path.glob(f"began-{gate}-*")]

    run = subprocess.Popen([sys.executable, tmp_path / "gated_task_of_ray_test.py", tmp_path])
    try:
        wait_until(lambda: len(began("first")) == 3, PATIENCE_S, "a job on each of three CPUs")
        cluster.remove_node(node, allow_graceful=False)
        (tmp_path / "first").touch()
        wait_until(lambda: began("second"), PATIENCE_S, "the CPU that is left at work")
        cluster.add_node(num_cpus=2, object_store_memory=80 << 20)
        wait_until(lambda: len(began("second")) == 3, PATIENCE_S, "three CPUs at work again")
        (tmp_path / "second").touch()
        assert run.wait(PATIENCE_S) == 0
    finally:
        run.kill()
    results = sorted(json.loads(line) for line in (tmp_path / "results").read_text().splitlines())
    assert results == [[gate, number, None] for gate in ("first", "second") for number in range(5)]


@pytest.mark.slow
def test_annotate_loses_no_clip_with_a_node(cluster: Any, tmp_path: Path) -> None:
    node = cluster.add_node(num_cpus=2, object_store_memory=80 << 20)
    raw, truth = write_wall_videos(tmp_path, videos=12, frames=72)
    command = [sys.executable, "-m", "fw_data.cli", "annotate", raw]
    options = ["--geometry", "oracle", "--truth", truth, "--frames", "9"]
    alone, lost = tmp_path / "alone", tmp_path / "lost"
    subprocess.run([*command, alone, *options, "--workers", "0"], check=True, capture_output=True)
    run = subprocess.Popen([*command, lost, *options, "--engine", "ray"], stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: any(lost.rglob(".work/videos/*/*.json")), PATIENCE_S, "the first video")
        assert run.poll() is None, "it is in the middle"
        cluster.remove_node(node, allow_graceful=False)
        assert run.wait(PATIENCE_S) == 0
    finally:
        run.kill()
    assert fingerprint(lost) == fingerprint(alone)
