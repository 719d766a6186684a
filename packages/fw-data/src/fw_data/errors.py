"""The one exception class of the package: something on disk is not what a dataset or a video should be."""


class DataError(ValueError):
    """A dataset, shard or video file that cannot be used; the message says which, why and what to do.

    `code` is short and stable (kebab-case), for refusals and reports.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[type["DataError"], tuple[str, str]]:
        return type(self), (self.code, str(self))
