"""API keys: shown once, stored as a digest, each with its limits.

A key has the form fw-ID-SECRET. The secret has 256 random bits, so SHA-256 without salt is enough.
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass

from sqlalchemy import func, select, update

from fw_serve.jobs.store import JobStore
from fw_serve.jobs.tables import keys, reader

_SHAPE = re.compile(r"fw-([0-9a-f]{8})-([A-Za-z0-9_-]{43})")
_NO_DIGEST = "0" * 64


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    """An API key and its limits."""

    id: str
    """Public part of the key; the owner of its jobs."""
    name: str
    """Name of the owner, given by the operator."""
    per_minute: int
    """Maximum number of creations within 60 seconds."""
    max_queued: int
    """Maximum number of queued jobs."""
    created_at: float
    """Seconds since 1970."""
    revoked_at: float | None
    """Seconds since 1970; None while it is valid."""
    max_priority: int = 0
    """Highest priority that a request may ask for."""
    disk_bytes: int | None = None
    """Maximum size of the files of its jobs; None is no limit."""


class KeyRing:
    """The keys of a store."""

    def __init__(self, store: JobStore) -> None:
        self.store = store

    def add(
        self, name: str, *, per_minute: int, max_queued: int, max_priority: int = 0, disk_bytes: int | None = None
    ) -> str:
        """Create a key and return it; it cannot be read again.

        Raises:
            ValueError: an empty name, or limits below one.
        """
        if not name.strip() or len(name) > 80:
            raise ValueError("NAME must have 1 to 80 characters, such as the name of a person or a program")
        if per_minute < 1 or max_queued < 1 or max_priority < 0 or (disk_bytes is not None and disk_bytes < 1):
            raise ValueError("limits must be at least 1; to lock out an owner, use `fw-serve key revoke`")
        public, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
        row = {
            "id": public,
            "name": name.strip(),
            "digest": _digest(secret),
            "per_minute": per_minute,
            "max_queued": max_queued,
            "created_at": self.store.clock(),
            "max_priority": max_priority,
            "disk_bytes": disk_bytes,
        }
        with self.store.engine.begin() as connection:
            connection.execute(keys.insert().values(**row))
        return f"fw-{public}-{secret}"

    def check(self, key: str) -> ApiKey | None:
        """The valid key, or None if it is unknown or revoked. Compares in constant time."""
        shape = _SHAPE.fullmatch(key)
        public, secret = shape.groups() if shape else ("", "")
        with reader(self.store.engine) as connection:
            row = connection.execute(select(keys).where(keys.c.id == public)).first()
        same = hmac.compare_digest(_digest(secret), _NO_DIGEST if row is None else row.digest)
        return _key(row) if same and row is not None and row.revoked_at is None else None

    def revoke(self, public_id: str) -> bool:
        """Revoke a key; False if there is no valid key with this id."""
        valid = (keys.c.id == public_id) & keys.c.revoked_at.is_(None)
        with self.store.engine.begin() as connection:
            return connection.execute(update(keys).where(valid).values(revoked_at=self.store.clock())).rowcount == 1

    def all(self) -> list[ApiKey]:
        """All keys, revoked ones included, oldest first."""
        with reader(self.store.engine) as connection:
            return [_key(row) for row in connection.execute(select(keys).order_by(keys.c.created_at))]

    def any_valid(self) -> bool:
        """Whether there is a valid key."""
        with reader(self.store.engine) as connection:
            valid = select(func.count()).select_from(keys).where(keys.c.revoked_at.is_(None))
            return bool(connection.execute(valid).scalar())


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _key(row) -> ApiKey:  # type: ignore[no-untyped-def]
    return ApiKey(
        id=row.id,
        name=row.name,
        per_minute=row.per_minute,
        max_queued=row.max_queued,
        created_at=row.created_at,
        revoked_at=row.revoked_at,
        max_priority=row.max_priority,
        disk_bytes=row.disk_bytes,
    )
