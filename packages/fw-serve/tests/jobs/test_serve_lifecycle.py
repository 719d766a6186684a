"""The job store as a state machine: any order of calls keeps every promise of the store."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule
from tests.stub_server.job_store import LEASE_S, OPEN, FrozenClock, new, report

from fw_serve.jobs.errors import (
    LeaseLostError,
)
from fw_serve.jobs.model import TRANSITIONS
from fw_serve.jobs.store import JobStore
from fw_serve.jobs.tables import jobs


class Lifecycle(RuleBasedStateMachine):
    """Anything in any order: states change along `TRANSITIONS` only, leases are exclusive, nothing completes twice."""

    created = Bundle("created")
    leases = Bundle("leases")

    @initialize()
    def begin(self):
        self.folder = TemporaryDirectory()
        self.clock = FrozenClock()
        self.store = JobStore(f"sqlite:///{Path(self.folder.name) / 'jobs.db'}", clock=self.clock)
        self.number, self.states, self.completions = 0, {}, {}

    def teardown(self):
        if hasattr(self, "store"):
            self.store.close()
            self.folder.cleanup()

    @rule(target=created)
    def create(self):
        self.number += 1
        job, _ = self.store.create(new(self.number), OPEN)
        self.states[job.id] = "queued"
        return job.id

    @rule(target=leases, worker=st.sampled_from(["a", "b"]))
    def claim(self, worker):
        self.observe()
        job = self.store.claim(worker, LEASE_S)
        return (None, None) if job is None else (job.id, job.lease)

    @rule(held=leases, end=st.sampled_from(["report", "heartbeat", "complete", "fail", "give_back"]))
    def use(self, held, end):
        self.observe()
        job_id, lease = held
        if lease is None:
            return
        before = self.store.get(job_id)
        mine = before is not None and before.lease == lease and before.status in ("in_progress", "queued")
        actions = {
            "report": lambda: report(self.store, lease),
            "heartbeat": lambda: self.store.heartbeat(lease, LEASE_S),
            "complete": lambda: self.store.complete(lease, "r"),
            "fail": lambda: self.store.fail(lease, "code", "words"),
            "give_back": lambda: self.store.give_back(lease),
        }
        if not mine:
            with pytest.raises(LeaseLostError):
                actions[end]()
            return
        actions[end]()
        if end == "complete":
            self.completions[job_id] = self.completions.get(job_id, 0) + 1

    @rule(job_id=created)
    def cancel(self, job_id):
        self.store.cancel(job_id, "")

    @rule(job_id=created)
    def delete(self, job_id):
        self.store.delete(job_id, "")

    @rule(seconds=st.sampled_from([1.0, 6.0, 11.0]))
    def wait(self, seconds):
        self.clock.now += seconds

    @rule()
    def reap(self):
        self.observe()
        self.store.reap()

    @invariant()
    def observe(self):
        if not hasattr(self, "store"):
            return
        with self.store.engine.connect() as connection:
            rows = connection.execute(jobs.select()).all()
        for row in rows:
            old = self.states[row.id]
            reached = {old} | {b for a, b in TRANSITIONS if a == old}
            if old == "in_progress":  # reaping and claiming again happen within one call
                reached |= {"in_progress"}
            assert row.status in reached or (old == "queued" and row.status == "in_progress"), (old, row.status)
            assert row.lease is None or row.status in ("in_progress", "queued")
            assert row.lease is not None or row.status != "in_progress"
            assert row.attempts <= self.store.max_attempts
            self.states[row.id] = row.status
        held = [row.lease for row in rows if row.lease]
        assert len(held) == len(set(held))
        assert all(number == 1 for number in self.completions.values())
        totals = self.store.totals()
        assert totals.get("completed", 0) == len(self.completions)


TestLifecycle = Lifecycle.TestCase
TestLifecycle.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
