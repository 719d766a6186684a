"""The job store on SQLite and on a real PostgreSQL: every transition, exact admission, and no job completed twice."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text, update
from tests.stub_server.job_store import KEEP_S, LEASE_S, OPEN, REQUEST, FrozenClock, new, report

from fw_model.pipeline.settings import GenerationSettings, Sampling
from fw_serve.jobs.errors import (
    DiskShareError,
    IdempotencyMismatchError,
    LeaseLostError,
    QueueFullError,
    RateLimitedError,
    UnknownCursorError,
)
from fw_serve.jobs.fleet import Fleet
from fw_serve.jobs.keys import KeyRing
from fw_serve.jobs.model import ModelCard
from fw_serve.jobs.store import MAX_INTERRUPTIONS, Admission, JobStore
from fw_serve.jobs.tables import cards, jobs


@pytest.fixture
def clock():
    return FrozenClock()


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request, tmp_path, clock):
    if request.param == "sqlite":
        store = JobStore(f"sqlite:///{tmp_path / 'jobs.db'}", clock=clock, max_attempts=2, keep_s=KEEP_S)
    else:
        store = JobStore(request.getfixturevalue("postgres"), clock=clock, max_attempts=2, keep_s=KEEP_S)
    yield store
    store.close()


def test_a_job_from_queue_to_result(store, clock):
    job, fresh = store.create(new(1), OPEN)
    assert (fresh, job.status, job.attempts, job.position) == (True, "queued", 0, 1)
    assert job.request == REQUEST
    clock.now += 5
    running = store.claim("w1", LEASE_S)
    assert running is not None
    assert (running.id, running.status, running.attempts, running.started_at) == (job.id, "in_progress", 1, clock.now)
    assert store.claim("w2", LEASE_S) is None
    report(store, running.lease, 50)
    report(store, running.lease, 40)
    assert store.get(job.id).progress == 50, "progress never falls"
    clock.now += 3
    done = store.complete(running.lease, "result", size=50, work=8.0)
    assert (done.status, done.progress, done.result, done.lease) == ("completed", 100, "result", None)
    assert (done.expires_at, done.bytes) == (clock.now + KEEP_S, 50)
    assert store.totals() == {"completed": 1, "seconds": 3.0, "seconds.m": 3.0, "work.m": 8.0}
    assert store.counts() == {"queued": 0, "in_progress": 0, "completed": 1, "failed": 0}
    for late in (lambda: report(store, running.lease), lambda: store.complete(running.lease, "again")):
        with pytest.raises(LeaseLostError):
            late()


def test_jobs_are_taken_in_order_and_a_lost_one_comes_first_again(store, clock):
    for number in range(3):
        store.create(new(number), OPEN)
    first = store.claim("w1", LEASE_S)
    clock.now += LEASE_S / 2
    store.heartbeat(first.lease, LEASE_S)
    clock.now += LEASE_S - 1
    second = store.claim("w2", LEASE_S)
    assert second.seq == first.seq + 1, "a heartbeat keeps the lease"
    clock.now += 2
    again = store.claim("w3", LEASE_S)
    assert (again.id, again.attempts, again.worker, again.progress) == (first.id, 1, "w3", 0)
    with pytest.raises(LeaseLostError):
        store.complete(first.lease, "late")
    assert store.totals() == {"requeued": 1}


def test_a_job_whose_workers_keep_dying_fails(store):
    store.create(new(1), OPEN)
    for _ in range(2):
        store.claim("w1", LEASE_S)
        assert store.release("w1") == 1
    failed = store.get(new(1).id)
    assert (failed.status, failed.error_code, failed.attempts) == ("failed", "worker_lost", 2)
    assert store.claim("w1", LEASE_S) is None


def test_giving_back_is_no_failed_attempt(store):
    store.create(new(1), OPEN)
    for _ in range(5):
        job = store.claim("w1", LEASE_S)
        assert job.attempts == 1
        store.give_back(job.lease)
    assert store.get(new(1).id).status == "queued"


def test_only_crashes_count_as_attempts(store, clock):
    store.create(new(1), OPEN)
    for stop in (
        lambda job: store.give_back(job.lease),  # a graceful stop
        lambda job: store.release(job.worker, "stopped"),  # the service was killed, or its patience ended
        lambda _: setattr(clock, "now", clock.now + LEASE_S + 1),  # the whole machine went down
    ):
        for _ in range(3):
            job = store.claim("w1", LEASE_S)
            assert job.attempts == 1
            stop(job)
    assert store.claim("w1", LEASE_S).attempts == 1
    store.release("w1")
    assert store.claim("w1", LEASE_S).attempts == 2
    store.release("w1")
    assert store.get(new(1).id).error_code == "worker_lost"


def test_a_job_that_takes_the_machine_down_every_time_fails_at_last(store, clock):
    store.create(new(1), OPEN)
    for _ in range(MAX_INTERRUPTIONS):
        assert store.claim("w1", LEASE_S).attempts == 1
        clock.now += LEASE_S + 1
    assert store.claim("w1", LEASE_S) is None
    assert store.get(new(1).id).error_code == "worker_lost"


def test_an_attempt_that_was_cut_off_takes_its_job_back_unless_another_has_it(store, clock):
    for number in (1, 2, 3):
        store.create(new(number), OPEN)
    first, second, third = (store.claim(f"w{number}", LEASE_S) for number in (1, 2, 3))
    clock.now += LEASE_S + 1
    store.reap()
    report(store, first.lease, 60)
    kept = store.get(first.id)
    assert (kept.status, kept.attempts, kept.progress) == ("in_progress", 1, 60)
    done = store.complete(second.lease, "r")
    assert (done.status, done.attempts) == ("completed", 1), "an attempt may end before it reports again"
    assert store.claim("w4", LEASE_S).id == third.id
    with pytest.raises(LeaseLostError):
        report(store, third.lease)


def test_a_job_that_ran_out_of_memory_is_not_repeated(store):
    store.create(new(1), OPEN)
    store.claim("w1", LEASE_S)
    assert store.release("w1", "out_of_memory") == 1
    failed = store.get(new(1).id)
    assert (failed.status, failed.error_code, failed.attempts) == ("failed", "out_of_memory", 1)


def test_every_final_state_expires(store, clock):
    for number in range(5):
        store.create(new(number), OPEN)
    store.complete(store.claim("a", LEASE_S).lease, "r")
    store.fail(store.claim("a", LEASE_S).lease, "code", "words")
    store.claim("b", LEASE_S)
    store.release("b", "out_of_memory")
    store.cancel(new(3).id, "")
    for _ in range(2):
        store.claim("c", LEASE_S)
        store.release("c")
    assert {job.expires_at for job in store.page("").jobs} == {clock.now + KEEP_S}
    clock.now += KEEP_S + 1
    assert len(store.expired()) == 5


def test_priorities_go_first_and_models_are_apart(store):
    for number, priority in ((1, 0), (2, 5), (3, 5), (4, 0)):
        store.create(new(number, priority=priority), OPEN)
    assert [store.get(new(number).id).position for number in (2, 3, 1, 4)] == [1, 2, 3, 4]
    assert store.claim("w", LEASE_S, "another") is None
    assert [store.claim("w", LEASE_S, "m").id for _ in range(4)] == [new(number).id for number in (2, 3, 1, 4)]


def test_the_disk_of_an_owner_is_limited(store):
    allowed = Admission(disk_bytes=100)
    store.create(new(1, owner="anna", bytes=40), allowed)
    store.complete(store.claim("w", LEASE_S).lease, "r", size=50)
    assert store.disk_usage("anna") == 90
    with pytest.raises(DiskShareError) as full:
        store.create(new(2, owner="anna", bytes=20), allowed)
    assert (full.value.used, full.value.limit) == (90, 100)
    store.create(new(3, owner="ben", bytes=20), allowed)
    store.delete(new(1).id)
    store.create(new(4, owner="anna", bytes=20), allowed)


def test_cancelling_and_deleting_take_the_job_away(store):
    for number, stop in enumerate((store.cancel, store.delete)):
        waiting, _ = store.create(new(2 * number), OPEN)
        stop(waiting.id, "")
        job, _ = store.create(new(2 * number + 1), OPEN)
        running = store.claim("w1", LEASE_S)
        assert running.id == job.id
        stop(job.id, "")
        with pytest.raises(LeaseLostError):
            report(store, running.lease)
    cancelled = store.get(new(1).id)
    assert (cancelled.status, cancelled.error_code) == ("failed", "cancelled")
    assert store.get(new(3).id) is None
    assert not store.delete(new(3).id, "")
    with store.engine.begin() as connection:
        stored = connection.execute(jobs.select().where(jobs.c.id == new(3).id)).one()
    assert "secret" not in stored.request, "a deleted job keeps no words of its owner"
    completed, _ = store.create(new(9), OPEN)
    store.complete(store.claim("w1", LEASE_S).lease, "r")
    assert store.cancel(completed.id, "").status == "completed"


def test_others_jobs_do_not_exist(store):
    job, _ = store.create(new(1, owner="anna"), OPEN)
    assert store.get(job.id, "ben") is None
    assert store.cancel(job.id, "ben") is None
    assert not store.delete(job.id, "ben")
    assert list(store.page("ben").jobs) == []
    with pytest.raises(UnknownCursorError):
        store.page("ben", after=job.id)
    assert store.get(job.id, "anna").status == "queued"


def test_pages_hold_everything_once_whatever_is_deleted_meanwhile(store):
    made = [store.create(new(number), OPEN)[0].id for number in range(7)]
    for newest_first in (True, False):
        seen, after = [], None
        while True:
            page = store.page("", after=after, limit=2, newest_first=newest_first)
            seen += [job.id for job in page.jobs]
            if not page.has_more:
                break
            after = page.jobs[-1].id
        assert seen == (made[::-1] if newest_first else made)
    page = store.page("", limit=2, newest_first=False)
    store.delete(page.jobs[-1].id)
    assert store.page("", after=page.jobs[-1].id, limit=9, newest_first=False).jobs[0].id == made[2]


def test_the_queue_takes_exactly_what_it_holds_however_many_ask(store):
    barrier, refused = threading.Barrier(16), []

    def ask(number):
        if number < 16:
            barrier.wait()
        try:
            store.create(new(number), Admission(queue=12))
        except QueueFullError as error:
            refused.append((error.waiting, error.limit, error.own))

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(ask, range(48)))
    assert store.counts()["queued"] == 12
    assert refused == [(12, 12, False)] * 36
    store.claim("w", LEASE_S)
    store.create(new(99), Admission(queue=12))
    with pytest.raises(QueueFullError) as own:
        store.create(new(100, owner="anna"), Admission(queue=99, own_queue=0))
    assert own.value.own


def test_creations_a_minute_are_exact(store, clock):
    allowed = Admission(per_minute=3)
    for number in range(3):
        store.create(new(number, owner="anna"), allowed)
        clock.now += 10
    store.delete(new(0).id)
    with pytest.raises(RateLimitedError) as limited:
        store.create(new(3, owner="anna"), allowed)
    assert limited.value.retry_after_s == pytest.approx(30)
    store.create(new(4, owner="ben"), allowed)
    clock.now += 29.5
    with pytest.raises(RateLimitedError):
        store.create(new(5, owner="anna"), allowed)
    clock.now += 0.6
    store.create(new(6, owner="anna"), allowed)


def test_an_idempotency_key_makes_one_job(store, clock):
    def ask(number):
        return store.create(new(number, idempotency_key="k", fingerprint="f"), Admission(queue=1))

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(8)))
    assert len({job.id for job, _ in answers}) == 1
    assert sum(fresh for _, fresh in answers) == 1
    with pytest.raises(IdempotencyMismatchError):
        store.create(new(9, idempotency_key="k", fingerprint="other"), OPEN)
    store.create(new(10, owner="anna", idempotency_key="k", fingerprint="other"), OPEN)
    store.delete(answers[0][0].id)
    assert ask(9)[0].status == "deleted", "the key is remembered until the tombstone is purged"
    clock.now += 100
    assert store.purge(99) == 1
    assert store.create(new(11, idempotency_key="k", fingerprint="other"), OPEN)[1]


def test_expired_jobs_are_named(store, clock):
    store.create(new(1), OPEN)
    store.complete(store.claim("w", LEASE_S).lease, "r")
    assert store.expired() == []
    clock.now += KEEP_S + 1
    assert store.expired() == [new(1).id]
    store.delete(new(1).id)
    assert store.expired() == []
    assert store.known() == {}


def test_what_is_written_is_there_for_the_next_process(store, clock):
    store.create(new(1), OPEN)
    url = store.engine.url.render_as_string(hide_password=False)
    other = JobStore(url, clock=clock)
    kept = other.get(new(1).id)
    assert kept is not None
    assert kept.request == REQUEST
    assert other.claim("w", LEASE_S) == store.get(new(1).id)
    assert store.get(new(1).id).status == "in_progress"
    other.close()


def test_workers_and_models(store, clock):
    fleet = Fleet(store, silent_s=30)
    card = ModelCard(name="m", settings=Sampling(num_frames=5, width=48, height=32))
    assert fleet.models() == []
    fleet.announce("w1", "loading")
    fleet.announce("w1", "ready", card)
    fleet.announce("w1", "busy")
    assert [(worker.id, worker.state) for worker in fleet.alive()] == [("w1", "busy")]
    clock.now += 31
    assert fleet.alive() == []
    assert fleet.models() == [card], "what was served once can be asked for while workers restart"
    second, first = card.model_copy(update={"name": "a", "order": 1}), card.model_copy(update={"name": "b"})
    fleet.announce("w2", "ready", second)
    fleet.announce("w3", "ready", first)
    assert [known.name for known in fleet.models()] == ["b", "a"], "the default model is the first one, by its order"


def test_keys_are_digests_and_can_be_ended(store):
    ring = KeyRing(store)
    assert not ring.any_valid()
    key = ring.add("anna", per_minute=3, max_queued=2)
    known = ring.check(key)
    assert known is not None
    assert (known.name, known.per_minute, known.max_queued) == ("anna", 3, 2)
    with store.engine.connect() as connection:
        stored = connection.execute(text("SELECT * FROM fw_keys")).one()
    assert key[12:] not in json.dumps([str(value) for value in stored])
    for wrong in ("", "fw-", key[:-1], key + "A", key.swapcase(), f"fw-{known.id}-{'A' * 43}", key + "\n", "\0" * 55):
        assert ring.check(wrong) is None
    assert ring.revoke(known.id)
    assert not ring.revoke(known.id)
    assert ring.check(key) is None
    assert not ring.any_valid()
    for name, per_minute in (("", 1), ("x" * 81, 1), ("x", 0)):
        with pytest.raises(ValueError):
            ring.add(name, per_minute=per_minute, max_queued=1)


def test_databases_that_cannot_be_used_say_so(tmp_path):
    for url, words in (("jobs.db", "sqlite:///"), ("mysql://x/y", "postgresql.*mysql")):
        with pytest.raises(ValueError, match=words):
            JobStore(url)
    store = JobStore(f"sqlite:///{tmp_path / 'jobs.db'}")
    with store.engine.begin() as connection:
        connection.execute(text("UPDATE fw_revision SET version_num = '0099'"))
    with pytest.raises(ValueError, match="0099"):
        JobStore(f"sqlite:///{tmp_path / 'jobs.db'}")
    store.close()


def test_jobs_and_cards_of_earlier_versions_load(tmp_path):
    store = JobStore(f"sqlite:///{tmp_path / 'jobs.db'}")
    store.create(new(1), OPEN)
    request = {
        "prompt": "a room", "model": "m", "frames": 9, "width": 96, "height": 64, "seconds": "0.5", "camera": "pan",
        "steps": 4, "guidance": 2.0, "seed": 7, "negative_prompt": "fog", "sampler": "unipc", "scene_scale": 3.0,
        "easycache": 0.05,
    }  # fmt: skip
    card = {"name": "m", "frames": 9, "width": 96, "height": 64, "fps": 8.0, "steps": 4, "guidance": 2.0}
    with store.engine.begin() as connection:
        connection.execute(update(jobs).values(request=json.dumps(request)))
        connection.execute(cards.insert().values(name="m", card=json.dumps(card)))
    settings = store.page("").jobs[0].request.settings
    assert settings == GenerationSettings(
        num_frames=9, width=96, height=64, num_inference_steps=4, guidance_scale=2.0, seed=7, negative_prompt="fog",
        sampler="unipc", scene_scale=3.0, easycache=0.05,
    )  # fmt: skip
    assert Fleet(store).models()[0].settings == Sampling(
        num_frames=9, width=96, height=64, fps=8.0, num_inference_steps=4, guidance_scale=2.0
    )
    assert store.delete(new(1).id)
    with store.engine.connect() as connection:
        assert "fog" not in connection.execute(text("SELECT request FROM fw_jobs")).scalar_one()
    store.close()
