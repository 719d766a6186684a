"""The Ray engine on a small cluster of its own: results, errors, deaths, progress, and the same bytes as locally."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fw_data.annotators.oracle.spec import OracleSpec
from fw_data.engine.local import LocalEngine
from fw_data.engine.ray import RayEngine

_TASK = '''
"""A task that the actors can import."""
import os
import time
from pathlib import Path


class Odd:
    def __call__(self, job, progress):
        progress("half", 0.5)
        if job == "die":
            os._exit(7)
        if job == "raise":
            raise RuntimeError("no\\nway")
        if str(job).startswith("once "):
            marker = Path(job.removeprefix("once "))
            if not marker.exists():
                marker.touch()
                os._exit(7)
        if str(job).startswith("wait "):
            while not Path(job.removeprefix("wait ")).exists():
                time.sleep(0.01)
        return job
'''


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[type]:
    """A cluster of two processors for the whole session; gives the class of the task."""
    folder = tmp_path_factory.mktemp("ray_task")
    (folder / "task_of_ray_engine_test.py").write_text(_TASK)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        patch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.syspath_prepend(folder)
        import ray
        from task_of_ray_engine_test import Odd  # pyright: ignore[reportMissingImports]

        ray.init(
            address="local",  # a new cluster, even if another one is running
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=100 << 20,
        )
        yield Odd
        ray.shutdown()


def _ignore(*_: object) -> None:
    pass


def test_errors_and_deaths_cost_their_own_job_alone(ray_cluster, tmp_path):
    marker = tmp_path / "marker"
    jobs = [1, "raise", 2, "die", f"once {marker}", 3]
    with RayEngine(workers=2, cpus=0.5) as engine:
        results = list(engine.run(ray_cluster(), jobs, _ignore))
    done = {str(item.job): item for item in results}
    assert len(results) == len(jobs)
    assert [done[str(n)].value for n in (1, 2, 3)] == [1, 2, 3]
    assert (done["raise"].error or "").startswith("RuntimeError: no way (task_of_ray_engine_test.py:")
    assert "worker died 2 times" in (done["die"].error or "")
    assert done[f"once {marker}"].value == f"once {marker}"


def test_progress_comes_while_a_job_runs(ray_cluster, tmp_path):
    release = tmp_path / "release"
    seen = []

    def note(*report: object) -> None:
        seen.append(report)
        release.touch()  # the job waits for this: it can only end once its progress has been seen

    job = f"wait {release}"
    with RayEngine(workers=1, cpus=0.5) as engine:
        assert [item.value for item in engine.run(ray_cluster(), [job], note)] == [job]
    assert seen[0] == (job, "half", 0.5)


def test_leaving_early_frees_the_cluster(ray_cluster):
    engine = RayEngine(workers=1, cpus=2.0)
    results = engine.run(ray_cluster(), [1, 2, 3, 4], _ignore)
    next(results)
    results.close()
    with RayEngine(workers=1, cpus=2.0) as other:  # needs both processors
        assert len(list(other.run(ray_cluster(), [5, 6], _ignore))) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cpus": 64.0}, "no worker of 64 CPUs and 0 GPUs fits"),
        ({"gpus": 1.0}, "which has 2 CPUs and 0 GPUs"),
        ({"cpus": 0.0}, "need 1 worker and some CPU"),
        ({"workers": 0}, "need 1 worker and some CPU"),
    ],
)
def test_what_cannot_be_had_is_said_at_once(ray_cluster, options, words):
    with pytest.raises(ValueError, match=words):
        RayEngine(**options)


def test_as_many_workers_as_there_is_room_for(ray_cluster):
    with RayEngine(cpus=0.5) as engine:
        assert engine.workers == 4


def test_same_bytes_as_the_local_engine(ray_cluster, tmp_path, raw_with_truth, run_annotate):
    raw, truth = raw_with_truth
    shards: list[dict[str, bytes]] = []
    for name, engine in (("local", LocalEngine(workers=0)), ("ray", RayEngine(workers=2, cpus=0.5))):
        out: Path = tmp_path / name
        with engine:
            summary = run_annotate(raw, out, spec=OracleSpec(truth=truth), config={"max_frames": 7}, engine=engine)
        assert (summary.clips, summary.refusals) == (4, [])
        shards.append({path.name: path.read_bytes() for path in (out / "shards").iterdir()})
        shards[-1]["manifest"] = (out / "manifest.parquet").read_bytes()
    assert shards[0] == shards[1]
