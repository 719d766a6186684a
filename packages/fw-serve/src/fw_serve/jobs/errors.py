"""Refusals of the job store."""


class StoreError(Exception):
    """A refusal of the job store."""


class QueueFullError(StoreError):
    """The queue, or the share of one key, is full."""

    def __init__(self, waiting: int, limit: int, *, own: bool) -> None:
        super().__init__(f"{waiting} of {limit} jobs are queued; try again later")
        self.waiting = waiting
        """Number of queued jobs."""
        self.limit = limit
        """Maximum number of queued jobs."""
        self.own = own
        """Whether the share of the key is full, not the queue."""


class RateLimitedError(StoreError):
    """A key created too many jobs within a minute."""

    def __init__(self, limit: int, retry_after_s: float) -> None:
        super().__init__(f"this key may create {limit} jobs per minute")
        self.limit = limit
        """Maximum number of creations in 60 seconds."""
        self.retry_after_s = retry_after_s
        """Seconds until the next creation is admitted."""


class DiskShareError(StoreError):
    """The files of one key use its share of the disk."""

    def __init__(self, used: int, limit: int) -> None:
        super().__init__(f"your worlds use {used / 1e6:.0f} of {limit / 1e6:.0f} MB; delete some of them")
        self.used = used
        """Bytes of the key's jobs."""
        self.limit = limit
        """Maximum bytes of the key's jobs."""


class IdempotencyMismatchError(StoreError):
    """An Idempotency-Key was used before with another request."""


class UnknownCursorError(StoreError):
    """The job that a page should start after does not exist."""


class LeaseLostError(StoreError):
    """The attempt no longer owns the job: it was cancelled, deleted, or given to another worker."""
