"""The exception class of the package: an invalid dataset or video on disk."""


class DataError(ValueError):
    """A dataset, shard or video file that cannot be used; the message gives place, reason and fix.

    `code` is short and stable (kebab-case), for refusals and reports.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[type["DataError"], tuple[str, str]]:
        return type(self), (self.code, str(self))
