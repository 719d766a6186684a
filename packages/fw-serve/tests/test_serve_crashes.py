"""What dies, and what does not die with it: kill -9, out of memory, cancellations, restarts.

`python -m tests.chaos.serve` repeats these often enough to believe them.
"""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from tests.stub_server.server_process import QUEUE, wait_until

from fw_serve.client import Client


@pytest.mark.slow
def test_a_service_that_is_killed_or_stopped_loses_no_job_and_completes_none_twice(make_server, image, tmp_path):
    server = make_server(lease_s=2.0).start()
    gate = tmp_path / "gate"
    ids = [server.create(f"job0 hold={gate}", image).json()["id"]]
    wait_until(lambda: server.get(ids[0])["status"] == "in_progress")
    ids += [server.create(f"job{n}", image).json()["id"] for n in range(1, 9)]
    server.kill()
    gate.touch()
    server.start()
    ends = [server.finished(video) for video in ids]
    assert {end["status"] for end in ends} == {"completed"}
    assert {end["attempts"] for end in ends} == {1}, "to kill the service costs no job an attempt"
    ended = [line for line in server.lines() if line.startswith("end ")]
    assert len(ended) == len(set(ended)) == 9
    assert 'fw_jobs_finished_total{outcome="completed"} 9.0' in server.http.get("/metrics").text
    assert all(server.http.get(f"/v1/videos/{video}/content").status_code == 200 for video in ids)

    given_back = server.create("steps=40 pause=0.05", image).json()["id"]
    wait_until(lambda: server.get(given_back)["step"] > 1)
    assert server.terminate() in (0, -signal.SIGTERM)
    server.start()
    assert server.get(given_back)["attempts"] <= 1
    end = server.finished(given_back)
    assert (end["status"], end["attempts"]) == ("completed", 1), "to be stopped is no failed attempt"


def test_kill_9_of_the_worker_in_mid_step_repeats_the_job_and_the_service_answers_throughout(full_server, image):
    server = full_server
    (worker,) = server.worker_pids()
    os.kill(worker, signal.SIGKILL)
    answers = [server.http.get(f"/v1/videos/{server.held}").status_code for _ in range(100)]
    assert set(answers) == {200}
    server.gate.touch()
    end = server.finished(server.held)
    assert (end["status"], end["attempts"]) == ("completed", 2)
    assert server.worker_pids() != [worker]


def test_a_job_that_kills_every_worker_fails_alone(server, image):
    bad, good = (server.create(prompt, image).json()["id"] for prompt in ("crash", "good"))
    assert server.finished(bad)["error"]["code"] == "worker_lost"
    assert server.finished(good)["status"] == "completed"


def test_out_of_memory_fails_one_job_and_keeps_the_worker(server, image):
    before = server.worker_pids()
    pairs = [[server.create(prompt, image).json()["id"] for prompt in ("oom", "good")] for _ in range(3)]
    for bad, good in pairs:
        end = server.finished(bad)
        assert (end["status"], end["error"]["code"], end["attempts"]) == ("failed", "out_of_memory", 1)
        assert server.finished(good)["status"] == "completed"
    assert server.worker_pids() == before


def test_a_bug_tells_its_log_and_not_its_client(server, image):
    end = server.finished(server.create("broken", image).json()["id"])
    assert end["error"]["code"] == "generation_failed"
    assert "secret" not in end["error"]["message"]
    assert "/secret/path" in (server.folder / "log").read_text()


@pytest.mark.parametrize("stop", ["cancel", "delete"])
def test_a_running_job_stops_within_a_step(server, image, stop):
    before = server.worker_pids()
    for number in range(3):
        prompt = f"{stop}{number} steps=1000 pause=0.01"
        video = server.create(prompt, image).json()["id"]
        wait_until(lambda prompt=prompt: f"step {prompt}" in server.lines())
        if stop == "cancel":
            answer = server.http.post(f"/v1/videos/{video}/cancel").json()
            assert (answer["status"], answer["error"]["code"]) == ("failed", "cancelled")
        else:
            assert server.http.delete(f"/v1/videos/{video}").status_code == 200
        done = server.lines().count(f"step {prompt}")
        next_job = server.finished(server.create("good", image).json()["id"])
        assert next_job["status"] == "completed"
        assert server.lines().count(f"step {prompt}") <= done + 2, (
            "the step at work and one whose report was on its way"
        )
        assert f"end {prompt}" not in server.lines()
    assert server.worker_pids() == before


def test_a_waiting_job_is_cancelled_at_once(full_server, image):
    server = full_server
    waiting = server.create("never", image).json()["id"]
    assert server.http.post(f"/v1/videos/{waiting}/cancel").json()["status"] == "failed"
    server.gate.touch()
    assert server.finished(server.held)["status"] == "completed"
    assert "begin never" not in server.lines()


@pytest.mark.slow
def test_a_job_that_takes_too_long_fails_and_the_next_one_runs(make_server, image, tmp_path):
    server = make_server(job_timeout_s=1.0, lease_s=1.0).start()
    stuck, good = (server.create(p, image).json()["id"] for p in (f"hold={tmp_path / 'never'}", "good"))
    assert server.finished(stuck)["error"]["code"] == "timed_out"
    assert server.finished(good)["status"] == "completed"
    deaf, good = (server.create(p, image).json()["id"] for p in (f"hold={tmp_path / 'never'}", "good"))
    wait_until(lambda: server.get(deaf)["status"] == "in_progress")
    server.http.post(f"/v1/videos/{deaf}/cancel")  # it does not hear of it before its step ends
    assert server.finished(deaf)["error"]["code"] == "cancelled"
    assert server.finished(good)["status"] == "completed"


def test_two_hundred_at_once_on_a_queue_of_32(full_server, image):
    server = full_server
    before = len(list((server.folder / "data" / "inputs").iterdir()))
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda n: server.create(f"job{n}", image), range(200)))
    codes = [answer.status_code for answer in answers]
    assert (codes.count(200), codes.count(429)) == (QUEUE, 200 - QUEUE)
    assert all("retry-after" in answer.headers for answer in answers if answer.status_code == 429)
    inputs = len(list((server.folder / "data" / "inputs").iterdir()))
    assert inputs - before == QUEUE, "a refused job leaves no files"


@pytest.mark.slow
def test_two_replicas_share_one_postgresql(make_server, image, postgres, tmp_path):
    data = str(tmp_path / "shared")
    one, two = (make_server(name, database=postgres, data=data).start() for name in ("one", "two"))
    ids = [(one, two)[n % 2].create(f"replica{n}", image).json()["id"] for n in range(8)]
    ends = [(two, one)[n % 2].finished(video) for n, video in enumerate(ids)]
    assert {end["status"] for end in ends} == {"completed"}
    ended = [line for line in one.lines() + two.lines() if line.startswith("end replica")]
    assert len(ended) == len(set(ended)) == 8
    one.kill()
    assert two.http.get(f"/v1/videos/{ids[0]}/content").status_code == 200


class Balancer(httpx.BaseTransport):
    """Sends a request to the first replica that answers, as a proxy in front of them does."""

    def __init__(self, *ports):
        self.ports, self.transport, self.statuses = ports, httpx.HTTPTransport(), []

    def handle_request(self, request):
        content, failure = request.read(), httpx.TransportError("no replica")
        for port in self.ports:
            try:
                url = request.url.copy_with(host="127.0.0.1", port=port)
                sent = httpx.Request(request.method, url, headers=request.headers, content=content)
                answer = self.transport.handle_request(sent)
            except httpx.TransportError as error:
                failure = error
            else:
                self.statuses.append(answer.status_code)
                return answer
        raise failure

    def close(self):
        self.transport.close()


@pytest.mark.slow
def test_a_rolling_restart_under_load_fails_no_request_and_no_job(make_server, image, tmp_path):
    data = str(tmp_path / "shared")
    one, two = (make_server(name, data=data, lease_s=5.0).start() for name in ("one", "two"))
    ports, stop = [server.settings["port"] for server in (one, two)], threading.Event()

    def load(number):
        balancer, ends = Balancer(*ports[:: 1 if number % 2 else -1]), []
        with Client("http://localhost", transport=balancer, retries=0) as client:
            while not stop.is_set():
                prompt = f"load{number}.{len(ends)} steps=5 pause=0.05"
                video = client.create(image, prompt)
                ends.append((client.wait(video.id).status, prompt))  # follows the events, and polls after a break
                assert client.get(video.id).status == "completed"
        return ends, balancer.statuses

    with ThreadPoolExecutor(6) as pool:
        loads = [pool.submit(load, number) for number in range(6)]
        try:
            for server in (one, two, one):
                done = len(one.lines() + two.lines())
                wait_until(lambda done=done: len(one.lines() + two.lines()) > done + 30, what="jobs between restarts")
                assert server.terminate() in (0, -signal.SIGTERM)
                server.start()
        finally:
            stop.set()
        ends, statuses = zip(*(one.result() for one in loads), strict=True)
    assert {status for answers in statuses for status in answers} == {200}
    prompts = [prompt for made in ends for status, prompt in made if status == "completed"]
    assert len(prompts) == sum(map(len, ends)) >= 6
    finished = [line.removeprefix("end ") for line in one.lines() + two.lines() if line.startswith("end ")]
    assert sorted(finished) == sorted(prompts), "every job ended once"
    assert {job["attempts"] for job in one.http.get("/v1/videos?limit=100").json()["data"]} == {1}
