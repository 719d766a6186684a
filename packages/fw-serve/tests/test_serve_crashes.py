"""What dies, and what does not die with it: kill -9, out of memory, cancellations, restarts."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
from server_process import wait_until


@pytest.mark.slow
def test_kill_9_of_the_service_loses_no_job_and_completes_none_twice(make_server, picture, tmp_path):
    server = make_server(lease_s=2.0).start()
    gate = tmp_path / "gate"
    ids = [server.create(f"job0 hold={gate}", picture).json()["id"]]
    wait_until(lambda: server.get(ids[0])["status"] == "in_progress")
    ids += [server.create(f"job{n}", picture).json()["id"] for n in range(1, 51)]
    server.kill()
    gate.touch()
    server.start()
    ends = [server.finished(video) for video in ids]
    assert {end["status"] for end in ends} == {"completed"}
    assert [end["attempts"] for end in ends] == [2] + [1] * 50
    ended = [line for line in server.lines() if line.startswith("end ")]
    assert len(ended) == len(set(ended)) == 51
    assert 'fw_jobs_finished_total{outcome="completed"} 51.0' in server.http.get("/metrics").text
    assert all(server.http.get(f"/v1/videos/{video}/content").status_code == 200 for video in ids)


@pytest.mark.slow
def test_kill_9_of_the_worker_in_mid_step_repeats_the_job_and_the_service_answers_throughout(
    make_server, picture, tmp_path
):
    server = make_server().start()
    gate = tmp_path / "gate"
    video = server.create(f"hold={gate}", picture).json()["id"]
    wait_until(lambda: server.get(video)["status"] == "in_progress")
    (worker,) = server.worker_pids()
    os.kill(worker, signal.SIGKILL)
    answers = [server.http.get(f"/v1/videos/{video}").status_code for _ in range(1000)]
    assert set(answers) == {200}
    gate.touch()
    end = server.finished(video)
    assert (end["status"], end["attempts"]) == ("completed", 2)
    assert server.worker_pids() != [worker]


@pytest.mark.slow
def test_a_job_that_kills_every_worker_fails_alone(make_server, picture):
    server = make_server().start()
    bad, good = (server.create(prompt, picture).json()["id"] for prompt in ("crash", "good"))
    assert server.finished(bad)["error"]["code"] == "worker_lost"
    assert server.finished(good)["status"] == "completed"


def test_ten_times_out_of_memory_is_ten_failed_jobs_and_one_worker(server, picture):
    before = server.worker_pids()
    pairs = [[server.create(prompt, picture).json()["id"] for prompt in ("oom", "good")] for _ in range(10)]
    for bad, good in pairs:
        end = server.finished(bad)
        assert (end["status"], end["error"]["code"], end["attempts"]) == ("failed", "out_of_memory", 1)
        assert server.finished(good)["status"] == "completed"
    assert server.worker_pids() == before


def test_a_bug_tells_its_log_and_not_its_client(server, picture):
    end = server.finished(server.create("broken", picture).json()["id"])
    assert end["error"]["code"] == "generation_failed"
    assert "secret" not in end["error"]["message"]
    assert "/secret/path" in (server.folder / "log").read_text()


@pytest.mark.parametrize("stop", ["cancel", "delete"])
def test_a_running_job_stops_within_a_step(server, picture, stop):
    before = server.worker_pids()
    for number in range(10):
        prompt = f"{stop}{number} steps=1000 pause=0.01"
        video = server.create(prompt, picture).json()["id"]
        wait_until(lambda prompt=prompt: f"step {prompt}" in server.lines())
        if stop == "cancel":
            answer = server.http.post(f"/v1/videos/{video}/cancel").json()
            assert (answer["status"], answer["error"]["code"]) == ("failed", "cancelled")
        else:
            assert server.http.delete(f"/v1/videos/{video}").status_code == 200
        done = server.lines().count(f"step {prompt}")
        next_job = server.finished(server.create("good", picture).json()["id"])
        assert next_job["status"] == "completed"
        assert server.lines().count(f"step {prompt}") <= done + 2, (
            "the step at work and one whose report was on its way"
        )
        assert f"end {prompt}" not in server.lines()
    assert server.worker_pids() == before


def test_a_waiting_job_is_cancelled_at_once(server, picture, tmp_path):
    gate = tmp_path / "gate"
    running = server.create(f"hold={gate}", picture).json()["id"]
    waiting = server.create("never", picture).json()["id"]
    assert server.http.post(f"/v1/videos/{waiting}/cancel").json()["status"] == "failed"
    gate.touch()
    assert server.finished(running)["status"] == "completed"
    assert "begin never" not in server.lines()


@pytest.mark.slow
def test_stopping_gives_the_running_job_back(make_server, picture, tmp_path):
    server = make_server().start()
    video = server.create("steps=40 pause=0.05", picture).json()["id"]
    wait_until(lambda: server.get(video)["step"] > 1)
    assert server.terminate() in (0, -signal.SIGTERM)
    server.start()
    assert server.get(video)["attempts"] <= 1
    end = server.finished(video)
    assert (end["status"], end["attempts"]) == ("completed", 1)


@pytest.mark.slow
@pytest.mark.parametrize("code", ["timed_out", "cancelled"])
def test_a_job_that_takes_too_long_fails_and_the_next_one_runs(make_server, picture, tmp_path, code):
    server = make_server(job_timeout_s=1.0, lease_s=1.0).start()
    stuck, good = (server.create(p, picture).json()["id"] for p in (f"hold={tmp_path / 'never'}", "good"))
    if code == "cancelled":  # it does not hear of it before its step ends
        wait_until(lambda: server.get(stuck)["status"] == "in_progress")
        server.http.post(f"/v1/videos/{stuck}/cancel")
    assert server.finished(stuck)["error"]["code"] == code
    assert server.finished(good)["status"] == "completed"


@pytest.mark.slow
def test_two_hundred_at_once_on_a_queue_of_32(make_server, picture, tmp_path):
    server = make_server(limits={"queue": 32}).start()
    running = server.create(f"hold={tmp_path / 'gate'}", picture).json()["id"]
    wait_until(lambda: server.get(running)["status"] == "in_progress")
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda n: server.create(f"job{n}", picture), range(200)))
    codes = [answer.status_code for answer in answers]
    assert (codes.count(200), codes.count(429)) == (32, 168)
    assert all("retry-after" in answer.headers for answer in answers if answer.status_code == 429)
    inputs = list((server.folder / "data" / "inputs").iterdir())
    assert len(inputs) == 33, "a refused job leaves no files"


@pytest.mark.slow
def test_two_replicas_share_one_postgresql(make_server, picture, postgres, tmp_path):
    data = str(tmp_path / "shared")
    one, two = (make_server(name, database=postgres, data=data).start() for name in ("one", "two"))
    ids = [(one, two)[n % 2].create(f"replica{n}", picture).json()["id"] for n in range(12)]
    ends = [(two, one)[n % 2].finished(video) for n, video in enumerate(ids)]
    assert {end["status"] for end in ends} == {"completed"}
    ended = [line for line in one.lines() + two.lines() if line.startswith("end replica")]
    assert len(ended) == len(set(ended)) == 12
    one.kill()
    assert two.http.get(f"/v1/videos/{ids[0]}/content").status_code == 200
