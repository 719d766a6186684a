"""Worker processes: results, errors, deaths, progress, and a clean end."""

import multiprocessing
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fw_data.engine.local import LocalEngine, describe_error

_TASK = '''
"""A task that worker processes can import."""
import os
import signal
from dataclasses import dataclass


@dataclass
class Odd:
    offset: int

    def __call__(self, job, progress):
        progress(str(os.getpid()) if job in ("forever", "silent") else "half", 0.5)
        if job == "die":
            os._exit(7)
        if job == "kill":
            os.kill(os.getpid(), 9)
        if job == "raise":
            raise RuntimeError("no\\nway")
        if job == "forever":
            while True:
                progress(str(os.getpid()), 0.5)
        if job == "silent":
            while True:
                signal.pause()
        if job == "pid":
            return os.getpid()
        if job == "threads":
            return os.environ["OMP_NUM_THREADS"], __import__("cv2").getNumThreads()
        return job + self.offset
'''


def _ignore(*_: object) -> None:
    pass


@pytest.fixture
def odd(tmp_path: Path, monkeypatch):
    (tmp_path / "task_of_local_engine_test.py").write_text(_TASK)
    monkeypatch.syspath_prepend(tmp_path)
    from task_of_local_engine_test import Odd  # pyright: ignore[reportMissingImports]

    return Odd


def test_a_death_costs_one_job_and_workers_are_kept(odd):
    seen = []
    jobs = [1, "raise", 2, "die", 3, "kill", 4]
    with LocalEngine(workers=2) as engine:
        done = {str(item.job): item for item in engine.run(odd(10), jobs, lambda *a: seen.append(a))}
        survivors = {worker.process.pid for worker in engine._pool}
        again = [item.value for item in engine.run(odd(0), ["pid"], lambda *a: seen.append(a))]
        shifted = [item.value for item in engine.run(odd(20), [5], lambda *a: seen.append(a))]
    assert [done[str(n)].value for n in (1, 2, 3, 4)] == [11, 12, 13, 14]
    assert done["raise"].error is not None
    assert done["raise"].error.startswith("RuntimeError: no way (task_of_local_engine_test.py:")
    assert done["die"].error == "the worker process ended with exit code 7"
    assert "SIGKILL: out of memory?" in (done["kill"].error or "")
    assert (1, "half", 0.5) in seen
    assert set(again) <= survivors
    assert shifted == [25]
    assert not multiprocessing.active_children()


def test_workers_share_the_cores_and_one_alone_has_them_all(odd, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    with LocalEngine(workers=2) as engine:
        alone = [item.value for item in engine.run(odd(0), ["threads"], _ignore)]
        shared = [item.value for item in engine.run(odd(0), ["threads"] * 3, _ignore)]
    assert alone == [("8", 8)]
    assert shared == [("4", 4)] * 3

    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    with LocalEngine(workers=2) as engine:
        assert [item.value for item in engine.run(odd(0), ["threads"], _ignore)] == [("3", 3)]


def test_leaving_early_ends_the_workers(odd):
    engine = LocalEngine(workers=1)
    results = engine.run(odd(0), [1, 2, 3], _ignore)
    assert next(results).value == 1
    results.close()
    assert not multiprocessing.active_children()
    engine.close()


_PARENT = """
from fw_data.engine.local import LocalEngine
from task_of_local_engine_test import Odd

if __name__ == "__main__":
    list(LocalEngine(workers=2).run(Odd(0), ["forever", "silent"], lambda job, stage, done: print(stage, flush=True)))
"""


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="waits for foreign processes through Linux' pidfd")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_when_their_parent_is_killed(odd, tmp_path, how):
    (tmp_path / "parent.py").write_text(_PARENT)
    parent = subprocess.Popen([sys.executable, tmp_path / "parent.py"], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    workers: set[int] = set()
    while len(workers) < 2:
        workers.add(int(parent.stdout.readline()))
    watched = [os.pidfd_open(pid) for pid in workers]
    parent.send_signal(how)
    parent.wait()
    parent.stdout.close()
    for descriptor in watched:
        ended, _, _ = select.select([descriptor], [], [], 20)  # readable once the process has ended
        os.close(descriptor)
        assert ended


def test_without_workers_it_runs_here(odd):
    engine = LocalEngine(workers=0)
    done = list(engine.run(odd(1), [1, "raise", 2], _ignore))
    assert [item.value for item in done] == [2, None, 3]
    assert "RuntimeError" in (done[1].error or "")
    assert list(engine.run(odd(1), [], _ignore)) == []


def test_errors_in_one_line():
    assert describe_error(ValueError("a\n  b")) == "ValueError: a b"
