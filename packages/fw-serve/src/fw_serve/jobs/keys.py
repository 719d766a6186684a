"""API keys: shown once, kept as a digest, each with its limits.

A key reads fw-ID-SECRET; the secret has 256 random bits, so a plain SHA-256 of it cannot be searched.
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
    """Who asks, and how much they may."""

    id: str
    """Public part of the key; the owner of its jobs."""
    name: str
    """What the operator calls it."""
    per_minute: int
    """Creations within 60 seconds."""
    max_queued: int
    """Jobs that may wait at once."""
    created_at: float
    """Seconds since 1970."""
    revoked_at: float | None
    """Seconds since 1970; None while it is valid."""


class KeyRing:
    """The keys of a store."""

    def __init__(self, store: JobStore) -> None:
        self.store = store

    def add(self, name: str, *, per_minute: int, max_queued: int) -> str:
        """Make a key and return it; it cannot be read again.

        Raises:
            ValueError: an empty name, or limits below one.
        """
        if not name.strip() or len(name) > 80:
            raise ValueError("a key needs a name of 1 to 80 characters, for example the person's or the program's")
        if per_minute < 1 or max_queued < 1:
            raise ValueError("a key's limits are at least 1; revoke the key to stop its owner")
        public, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
        row = {
            "id": public,
            "name": name.strip(),
            "digest": _digest(secret),
            "per_minute": per_minute,
            "max_queued": max_queued,
            "created_at": self.store.clock(),
        }
        with self.store.engine.begin() as connection:
            connection.execute(keys.insert().values(**row))
        return f"fw-{public}-{secret}"

    def check(self, key: str) -> ApiKey | None:
        """Whose key this is; None if it is nobody's or was revoked. Takes as long for a near miss as for any other."""
        shape = _SHAPE.fullmatch(key)
        public, secret = shape.groups() if shape else ("", "")
        with reader(self.store.engine) as connection:
            row = connection.execute(select(keys).where(keys.c.id == public)).first()
        same = hmac.compare_digest(_digest(secret), _NO_DIGEST if row is None else row.digest)
        return _key(row) if same and row is not None and row.revoked_at is None else None

    def revoke(self, public_id: str) -> bool:
        """End a key's validity; False if there is no valid key of this id."""
        valid = (keys.c.id == public_id) & keys.c.revoked_at.is_(None)
        with self.store.engine.begin() as connection:
            return connection.execute(update(keys).where(valid).values(revoked_at=self.store.clock())).rowcount == 1

    def all(self) -> list[ApiKey]:
        """Every key ever made, oldest first."""
        with reader(self.store.engine) as connection:
            return [_key(row) for row in connection.execute(select(keys).order_by(keys.c.created_at))]

    def any_valid(self) -> bool:
        """Whether anyone could get in."""
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
    )
