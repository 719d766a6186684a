"""Upgrades of the job store: tables and rows as version 0.1 wrote them, on both databases."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, text

from fw_model.pipeline.settings import GenerationSettings
from fw_serve.cli import main
from fw_serve.jobs.keys import KeyRing
from fw_serve.jobs.model import NewJob, WorldRequest
from fw_serve.jobs.store import Admission, JobStore
from fw_serve.jobs.tables import REVISION, metadata, revisions

FIRST = """
CREATE TABLE fw_meta (name VARCHAR(40) NOT NULL, value INTEGER NOT NULL, PRIMARY KEY (name));
CREATE TABLE fw_jobs (
  seq SERIAL_KEY, id VARCHAR(40) NOT NULL, owner VARCHAR(40) NOT NULL, status VARCHAR(12) NOT NULL,
  request TEXT NOT NULL, created_at FLOAT(53) NOT NULL, started_at FLOAT(53), finished_at FLOAT(53),
  expires_at FLOAT(53), attempts INTEGER NOT NULL, lease VARCHAR(40), lease_until FLOAT(53), worker VARCHAR(80),
  stage VARCHAR(12), step INTEGER NOT NULL, steps INTEGER NOT NULL, progress INTEGER NOT NULL, eta_seconds FLOAT(53),
  error_code VARCHAR(40), error_message TEXT, result VARCHAR(40), remixed_from VARCHAR(40),
  idempotency_key VARCHAR(255), fingerprint VARCHAR(64) NOT NULL,
  CONSTRAINT fw_jobs_idempotency UNIQUE (owner, idempotency_key), UNIQUE (id)
);
CREATE INDEX fw_jobs_owner ON fw_jobs (owner, seq);
CREATE INDEX fw_jobs_status ON fw_jobs (status, seq);
CREATE INDEX fw_jobs_admitted ON fw_jobs (owner, created_at);
CREATE TABLE fw_workers (
  id VARCHAR(80) NOT NULL, state VARCHAR(12) NOT NULL, seen_at FLOAT(53) NOT NULL, card TEXT, PRIMARY KEY (id)
);
CREATE TABLE fw_models (name VARCHAR(120) NOT NULL, card TEXT NOT NULL, PRIMARY KEY (name));
CREATE TABLE fw_totals (name VARCHAR(120) NOT NULL, value FLOAT(53) NOT NULL, PRIMARY KEY (name));
CREATE TABLE fw_keys (
  id VARCHAR(16) NOT NULL, name VARCHAR(80) NOT NULL, digest VARCHAR(64) NOT NULL, per_minute INTEGER NOT NULL,
  max_queued INTEGER NOT NULL, created_at FLOAT(53) NOT NULL, revoked_at FLOAT(53), PRIMARY KEY (id)
);
INSERT INTO fw_meta VALUES ('schema', 1);
INSERT INTO fw_jobs (id, owner, status, request, created_at, attempts, step, steps, progress, fingerprint) VALUES
  ('video_000000000000000000000001', '', 'queued', '{"prompt": "a room", "model": "m", "seconds": "0.5", "camera": "pan", "settings": {"num_frames": 9, "width": 96, "height": 64, "seed": 7}}', 1.0, 0, 0, 0, 0, ''),
  ('video_000000000000000000000002', '', 'completed', '{"prompt": "b", "model": "m", "frames": 9, "width": 96, "height": 64, "seconds": "0.5", "camera": "pan", "steps": 4, "guidance": 2.0, "seed": 7}', 2.0, 1, 0, 0, 100, '');
INSERT INTO fw_keys VALUES ('00000001', 'anna', 'ab', 30, 8, 1.0, NULL);
"""  # noqa: E501


@pytest.fixture(params=["sqlite", "postgresql"])
def first(request, tmp_path):
    """URL of a database as version 0.1 wrote it."""
    kind = request.param
    url = f"sqlite:///{tmp_path / 'jobs.db'}" if kind == "sqlite" else request.getfixturevalue("postgres")
    serial = "INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT" if kind == "sqlite" else "BIGSERIAL PRIMARY KEY"
    engine = create_engine(url)
    with engine.begin() as connection:
        for statement in FIRST.replace("SERIAL_KEY", serial).strip().split(";\n"):
            connection.exec_driver_sql(statement.rstrip(";").replace("%", "%%"))
    engine.dispose()
    return url


def test_the_first_version_is_upgraded_with_its_rows(first):
    store = JobStore(first)
    with store.engine.connect() as connection:
        assert connection.execute(revisions.select()).scalar() == REVISION
        context = MigrationContext.configure(connection, opts={"version_table": revisions.name})
        assert compare_metadata(context, metadata) == [], "a migrated database has the tables of a new one"
    completed, queued = store.page("").jobs
    assert (queued.request.settings.num_frames, queued.priority, queued.webhook) == (9, 0, None)
    assert completed.request.settings.guidance_scale == 2.0
    claimed = store.claim("w", 10.0, "m")
    assert claimed is not None
    assert claimed.id == queued.id
    store.complete(str(claimed.lease), "r", size=5)
    (key,) = KeyRing(store).all()
    assert (key.name, key.max_priority, key.disk_bytes) == ("anna", 0, None)
    store.close()
    again = JobStore(first)
    done = again.get(queued.id)
    assert done is not None
    assert (done.status, done.bytes) == ("completed", 5)
    again.close()


def test_two_processes_upgrade_once(first):
    with ThreadPoolExecutor(2) as pool:
        stores = list(pool.map(JobStore, [first] * 2))
    assert [len(store.page("").jobs) for store in stores] == [2, 2]
    for store in stores:
        store.close()


def test_a_row_of_a_newer_version_neither_breaks_the_list_nor_runs(tmp_path):
    store = JobStore(f"sqlite:///{tmp_path / 'jobs.db'}")
    settings = GenerationSettings(num_frames=5, width=48, height=32)
    request = WorldRequest(prompt="a secret room", model="m", seconds="0.3", camera="orbit", settings=settings)
    newer_job, known_job = (NewJob(id=f"video_{number:024x}", owner="", request=request) for number in (1, 2))
    for job in (newer_job, known_job):
        store.create(job, Admission())
    changed = request.model_dump(mode="json")
    changed["settings"] |= {"sampler": "of-tomorrow", "colors": "warm"}
    changed["mood"] = "calm"
    with store.engine.begin() as connection:
        newer = text("UPDATE fw_jobs SET request = :request, version = 2 WHERE id = :id")
        connection.execute(newer, {"request": json.dumps(changed), "id": newer_job.id})
    assert [job.request.prompt for job in store.page("").jobs] == ["a secret room"] * 2
    claimed = store.claim("w", 10.0)
    assert claimed is not None
    assert claimed.id == known_job.id, "a worker leaves jobs that it does not understand to newer ones"
    assert store.claim("w", 10.0) is None
    assert store.delete(newer_job.id)
    store.close()


def test_an_unavailable_database_is_one_line(tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    for url in (f"sqlite:///{tmp_path / 'folder'}", f"postgresql://fw:hidden@/none?host={tmp_path}"):
        assert main(["up", "a/b", "--data", str(tmp_path / "data"), "--database", url]) == 2
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1
        assert "not available" in error
        assert "hidden" not in error
