"""`fw-serve key add|list|revoke`: the API keys in the database of a service."""

from collections.abc import Iterator
from contextlib import contextmanager

from fw_serve.jobs.keys import KeyRing
from fw_serve.jobs.store import JobStore
from fw_serve.options import KeyAddOptions, KeyOptions, KeyRevokeOptions
from fw_serve.prepare import database_url


def add(options: KeyAddOptions) -> None:
    """Create a key and print it. Raises ValueError for an empty name or limits below one."""
    with _ring(options) as ring:
        key = ring.add(
            options.name,
            per_minute=options.per_minute,
            max_queued=options.max_queued,
            max_priority=options.max_priority,
            disk_bytes=None if options.max_disk_mb is None else options.max_disk_mb * 1_000_000,
        )
    print(f"{key}\nSave this key: it cannot be shown again. Send it as `Authorization: Bearer ...`.")


def list_all(options: KeyOptions) -> None:
    """Print a line per key, revoked ones included."""
    with _ring(options) as ring:
        for key in ring.all():
            state = "revoked" if key.revoked_at is not None else "valid"
            limits = f"{key.per_minute} per minute, {key.max_queued} queued"
            print(f"{key.id}  {state:8}{limits:28}{key.name}")


def revoke(options: KeyRevokeOptions) -> None:
    """Revoke a key. Raises ValueError if there is no valid key with this id."""
    with _ring(options) as ring:
        if not ring.revoke(options.id):
            raise ValueError(f"no valid key has id {options.id!r}; `fw-serve key list` shows the ids")


@contextmanager
def _ring(options: KeyOptions) -> Iterator[KeyRing]:
    options.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    store = JobStore(database_url(options.database, options.data))
    try:
        yield KeyRing(store)
    finally:
        store.close()
