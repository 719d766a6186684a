"""What the store refuses, each with what the caller has to know."""


class StoreError(Exception):
    """A refusal of the job store."""


class QueueFullError(StoreError):
    """The queue, or the share of it that one key may hold, has no place left."""

    def __init__(self, waiting: int, limit: int, *, own: bool) -> None:
        super().__init__(f"{waiting} jobs wait and {limit} may; try again when some are done")
        self.waiting = waiting
        """Jobs that wait."""
        self.limit = limit
        """Jobs that may wait."""
        self.own = own
        """Whether it is the key's own share that is used up."""


class RateLimitedError(StoreError):
    """A key created too many jobs within a minute."""

    def __init__(self, limit: int, retry_after_s: float) -> None:
        super().__init__(f"{limit} creations a minute are allowed for this key")
        self.limit = limit
        """Creations in 60 seconds."""
        self.retry_after_s = retry_after_s
        """Seconds until the next one is admitted."""


class IdempotencyMismatchError(StoreError):
    """An Idempotency-Key came again with another request."""


class UnknownCursorError(StoreError):
    """A list is to go on after a job that is not there."""


class LeaseLostError(StoreError):
    """The job is no longer this attempt's: it was cancelled, deleted, or given to another worker."""
