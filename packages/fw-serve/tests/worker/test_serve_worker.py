"""The worker's loop in this process: a database that goes away, a full disk, the end of the service."""

import errno
import os
import signal
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError
from tests.stub_server.server_process import wait_until
from tests.stub_server.stub_engine import StubEngine

from fw_model.pipeline.settings import GenerationSettings
from fw_serve.intake.camera import read_camera
from fw_serve.jobs.model import Job, NewJob, WorldRequest
from fw_serve.jobs.store import Admission, JobStore
from fw_serve.settings import EXIT_OUT_OF_MEMORY, WorkerSettings
from fw_serve.storage import JobStorage
from fw_serve.supervisor import Supervisor
from fw_serve.worker.engine import EngineLostError, JobProgress, OutOfMemoryError
from fw_serve.worker.process import WorkerProcess, follow


class Outage:
    """A store whose writes fail for some calls, as if the database were away."""

    def __init__(self, store: JobStore) -> None:
        self.store, self.failing, self.failed = store, 0, 0

    def __getattr__(self, name):
        value = getattr(self.store, name)
        if name not in ("report", "complete", "fail", "give_back", "heartbeat", "claim"):
            return value

        def call(*arguments, **named):
            if self.failing:
                self.failing -= 1
                self.failed += 1
                raise OperationalError("UPDATE", {}, Exception("server closed the connection"))
            return value(*arguments, **named)

        return call


@pytest.fixture
def outage(tmp_path):
    store = JobStore(f"sqlite:///{tmp_path / 'jobs.db'}")
    yield Outage(store)
    store.close()


@pytest.fixture
def worker(outage, tmp_path, monkeypatch):
    monkeypatch.setattr("fw_serve.worker.process.time.sleep", lambda _: None)
    settings = WorkerSettings(database="", data=str(tmp_path / "data"), name="w", poll_s=0.01)
    return WorkerProcess(settings, StubEngine(), outage)


def queue(worker: WorkerProcess, prompt: str, number: int = 1) -> str:
    camera = read_camera({"preset": "orbit"}, num_frames=5, default_num_frames=5, width=48, height=32)
    settings = GenerationSettings(num_frames=5, width=48, height=32)
    request = WorldRequest(prompt=prompt, model="stub", seconds="0.3", camera="orbit", settings=settings)
    new = NewJob(id=f"video_{number:024x}", owner="", request=request)
    files = {"image.png": b"\x89PNG", "camera.json": camera.model_dump_json().encode()}
    worker.storage.put_inputs(new.id, files)
    worker.store.create(new, Admission())
    return new.id


def run(worker: WorkerProcess, until: str) -> Job:
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        wait_until(lambda: (job := worker.store.get(until)) is not None and job.finished)
    finally:
        worker.stopping.set()
        thread.join()
    job = worker.store.get(until)
    assert job is not None
    return job


def test_a_database_that_is_away_costs_no_progress(worker, outage, tmp_path):
    journal = tmp_path / "journal"
    worker.engine.journal = journal
    video = queue(worker, "steps=5")
    begun = outage.store.claim

    def claim_then_fail(*arguments):
        job = begun(*arguments)
        if job is not None:
            outage.failing = 8  # all reports, and the first attempts to complete
        return job

    outage.store.claim = claim_then_fail
    job = run(worker, video)
    assert (job.status, job.attempts, outage.failed) == ("completed", 1, 8)
    assert journal.read_text().splitlines().count("begin steps=5") == 1


def test_a_job_that_was_queued_again_during_an_outage_is_finished_by_its_own_attempt(worker, outage, tmp_path):
    video = queue(worker, f"hold={tmp_path / 'gate'}")
    thread = threading.Thread(target=worker.run)
    thread.start()
    wait_until(lambda: outage.store.get(video).status == "in_progress")

    def is_queued_again() -> bool:  # the worker may extend its lease in between
        with outage.store.engine.begin() as connection:
            connection.exec_driver_sql("UPDATE fw_jobs SET lease_until = 0")
        outage.store.reap()
        return outage.store.get(video).status == "queued"

    wait_until(is_queued_again)
    (tmp_path / "gate").touch()
    wait_until(lambda: outage.store.get(video).finished)
    worker.stopping.set()
    thread.join()
    job = outage.store.get(video)
    assert (job.status, job.attempts) == ("completed", 1)


def test_a_full_disk_fails_the_job_by_name(worker, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(JobStorage, "publish", full)
    assert run(worker, queue(worker, "x")).error_code == "storage_full"


@pytest.mark.parametrize(
    ("error", "status", "code"), [(EngineLostError, "in_progress", None), (OutOfMemoryError, "failed", "out_of_memory")]
)
def test_a_lost_engine_ends_the_worker_but_not_its_job(worker, monkeypatch, error, status, code):
    """The supervisor queues a job again that has not ended. Memory that runs out ends the job, and may end a group."""

    def lost(*_):
        raise EngineLostError("out of step")

    def fail(*_):
        yield JobProgress(stage="denoise", step=1, steps=2)
        raise error("x")

    monkeypatch.setattr(worker.engine, "run", fail)
    monkeypatch.setattr(worker.engine, "recover", lost)
    video = queue(worker, "x")
    with pytest.raises(EngineLostError):
        worker.run()
    job = worker.store.get(video)
    assert (job.status, job.error_code) == (status, code)


def test_a_process_that_follows_tells_the_supervisor_that_memory_ran_out(worker, monkeypatch):
    def full():
        raise OutOfMemoryError("x")

    lifeline, _ = os.pipe()  # stays open, as that of a supervisor that lives
    monkeypatch.setattr("fw_serve.worker.process.signal.signal", lambda *_: None)
    monkeypatch.setattr("fw_serve.worker.process.load_engine", lambda _: worker.engine)
    monkeypatch.setattr(worker.engine, "follow", full)
    assert follow(replace(worker.settings, rank=1), lifeline) == EXIT_OUT_OF_MEMORY


@pytest.mark.parametrize(("code", "expected"), [(1, "queued"), (EXIT_OUT_OF_MEMORY, "failed")])
def test_a_process_that_ends_ends_its_group_before_the_job_is_freed(worker, outage, monkeypatch, code, expected):
    supervisor = Supervisor([replace(worker.settings, devices=("cpu", "cpu"))], outage.store)
    (slot,) = supervisor.slots
    slot.name = "w"
    slot.processes = [subprocess.Popen(["sleep", "60"]), subprocess.Popen(["sh", "-c", f"exit {code}"])]
    first, second = slot.processes
    second.wait()
    video = queue(worker, "x")
    outage.store.claim("w", 10.0, "stub")
    release, seen = outage.store.release, []
    monkeypatch.setattr(outage.store, "release", lambda *a: seen.append(first.returncode) or release(*a))
    supervisor._check(slot)
    assert seen == [-signal.SIGKILL]
    assert outage.store.get(video).status == expected
    assert slot.processes == [], "the next check starts all of them again"


def test_memory_that_ran_out_in_a_process_that_ends_last_is_not_booked_as_a_crash(worker, outage, monkeypatch):
    supervisor = Supervisor([replace(worker.settings, devices=("cpu", "cpu"))], outage.store)
    (slot,) = supervisor.slots
    slot.name = "w"
    slot.processes = [subprocess.Popen(["sh", "-c", f"exit {code}"]) for code in (5, EXIT_OUT_OF_MEMORY)]
    for process in slot.processes:
        process.wait()
    monkeypatch.setattr(slot.processes[1], "poll", lambda: None)  # exiting, and not to be waited for yet
    video = queue(worker, "x")
    outage.store.claim("w", 10.0, "stub")
    supervisor._check(slot)
    job = outage.store.get(video)
    assert (job.status, job.error_code) == ("failed", "out_of_memory")


@pytest.mark.slow
def test_two_kills_of_the_service_and_two_of_the_worker_within_one_job(make_server, image, tmp_path):
    server = make_server(lease_s=2.0).start()
    gate = tmp_path / "gate"
    video = server.create(f"hold={gate}", image).json()["id"]
    for stop in ("service", "worker", "service", "worker"):
        wait_until(lambda: server.get(video)["status"] == "in_progress")
        if stop == "service":
            workers = server.worker_pids()
            server.kill()
            wait_until(lambda workers=workers: not any(Path(f"/proc/{pid}").exists() for pid in workers))
            server.start()
        else:
            (worker,) = server.worker_pids()
            os.kill(worker, signal.SIGKILL)
            wait_until(lambda worker=worker: server.worker_pids() not in ([], [worker]))
    gate.touch()
    end = server.finished(video)
    assert (end["status"], end["attempts"]) == ("completed", 3), "two lost workers, and the attempt that completed"


@pytest.mark.slow
def test_a_worker_in_a_long_step_is_killed_at_a_stop_and_its_job_counts_no_attempt(make_server, image, tmp_path):
    server = make_server(worker={"stop_s": 0.5}).start()
    video = server.create(f"hold={tmp_path / 'never'}", image).json()["id"]
    wait_until(lambda: server.get(video)["status"] == "in_progress")
    server.terminate()
    server.start(ready=False)
    assert server.get(video)["attempts"] <= 1
    server.http.post(f"/v1/videos/{video}/cancel")
