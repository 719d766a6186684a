"""Storage of a dataset: a local folder, or any address that fsspec knows (s3://, gs://, memory://).

Both give whole files and byte ranges, keep nothing open between calls and pickle as their address alone, so that every
worker process makes its own connection. With the environment variable FW_DATA_CACHE, byte ranges of remote files are
kept in that folder (see fw_data.dataset.range_cache).
"""

import re
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from fw_data.dataset.range_cache import RangeCache, cache_from_environment
from fw_data.errors import DataError

_ADDRESS = re.compile(r"(?:[a-z0-9]+::)?[a-z0-9]+://", re.IGNORECASE)
_BROKEN_ADDRESS = re.compile(r"[a-z0-9]{2,}:/[^/]", re.IGNORECASE)


@runtime_checkable
class DatasetStorage(Protocol):
    """The files below one root, by name with forward slashes."""

    def read(self, name: str) -> bytes:
        """A whole file; raises DataError when there is none."""
        ...

    def read_range(self, name: str, begin: int, end: int) -> bytes:
        """Bytes [begin, end) of a file; raises DataError when there is none, or it ends before."""
        ...


def open_storage(location: str | Path) -> DatasetStorage:
    """The storage of a path or an address."""
    text = str(location)
    if is_address(location):
        remote = RemoteStorage(text)
        folder, limit = cache_from_environment()
        return remote if folder is None else CachedStorage(remote, folder, limit)
    check_path(location)
    return LocalStorage(Path(location))


def is_address(location: str | Path) -> bool:
    """Whether a location is an address (s3://..., given as text) rather than a path of this machine."""
    return isinstance(location, str) and _ADDRESS.match(location) is not None


def check_path(location: str | Path) -> None:
    """Raise DataError if a location is an address with one slash: mistyped, or made a Path."""
    text = str(location)
    if _BROKEN_ADDRESS.match(text) and not Path(text).exists():
        address = text.replace(":/", "://", 1)
        raise DataError("bad-address", f"{text} looks like an address with one slash; give it as text, {address}")


class LocalStorage:
    """A folder of this machine."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, name: str) -> bytes:
        """The bytes of a whole file."""
        try:
            return (self.root / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise _missing(str(self.root / name)) from error

    def read_range(self, name: str, begin: int, end: int) -> bytes:
        """Bytes [begin, end) of a file, by one seek."""
        path = self.root / name
        try:
            with path.open("rb", buffering=0) as file:
                file.seek(begin)
                data = file.read(end - begin)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise _missing(str(path)) from error
        return _whole(data, str(path), begin, end)


class RemoteStorage:
    """A folder behind an address of fsspec; one range request a read."""

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self._system: tuple[Any, str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"address": self.address, "_system": None}

    def read(self, name: str) -> bytes:
        """The bytes of a whole file."""
        return self._call("cat_file", name)

    def read_range(self, name: str, begin: int, end: int) -> bytes:
        """Bytes [begin, end) of a file."""
        data = self._call("cat_file", name, start=begin, end=end)
        return _whole(data, f"{self.address}/{name}", begin, end)

    def version(self, name: str) -> str:
        """A text that changes when the file does, such as its ETag."""
        return str(self._call("ukey", name))

    def _call(self, method: str, name: str, **options: int) -> Any:
        system, root = self._open()
        try:
            return getattr(system, method)(f"{root}/{name}", **options)
        except FileNotFoundError as error:
            raise _missing(f"{self.address}/{name}") from error
        except Exception as error:  # the libraries have errors of their own, such as botocore's NoCredentialsError
            reason = f"{self.address}/{name} cannot be read: {str(error).rstrip('.')}; {self._fix(error)}"
            raise DataError("unreachable", reason) from error

    def _fix(self, error: Exception) -> str:
        if self.address.startswith("s3:") and "credentials" in str(error).lower():
            return "set AWS_PROFILE to a profile that has them, and AWS_ENDPOINT_URL for a server other than AWS"
        return "check network, address and credentials"

    def _open(self) -> tuple[Any, str]:
        if self._system is None:
            import fsspec

            try:
                system, root = fsspec.url_to_fs(self.address)
            except (ImportError, ValueError) as error:
                raise DataError(
                    "bad-address", f"{self.address} cannot be opened: {error} (s3:// needs s3fs, gs:// needs gcsfs)"
                ) from error
            self._system = (system, root.rstrip("/"))
        return self._system


class CachedStorage:
    """A remote dataset whose byte ranges are kept on this machine; whole files, such as the manifest, are not.

    Args:
        remote: where the files are.
        folder: of the cache; processes and datasets may share one.
        limit: most bytes to keep; those read longest ago are removed first.
    """

    def __init__(self, remote: RemoteStorage, folder: Path, limit: int) -> None:
        self.remote, self.cache = remote, RangeCache(folder, limit)
        self._versions: dict[str, str] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"remote": self.remote, "cache": self.cache, "_versions": {}}

    def read(self, name: str) -> bytes:
        """The bytes of a whole file, from where it is."""
        return self.remote.read(name)

    def read_range(self, name: str, begin: int, end: int) -> bytes:
        """Bytes [begin, end) of a file, from the cache if they are there."""
        if name not in self._versions:
            self._versions[name] = self.remote.version(name)
        file = f"{self.remote.address}/{name} {self._versions[name]}"
        data = self.cache.get(file, begin, end)
        if data is None:
            data = self.remote.read_range(name, begin, end)
            self.cache.put(file, begin, end, data)
        return data


def _missing(what: str) -> DataError:
    return DataError("file-missing", f"{what} does not exist: copy it back, or give the folder of a dataset")


def _whole(data: bytes, what: str, begin: int, end: int) -> bytes:
    if len(data) != end - begin:
        raise DataError("shard-torn", f"{what} ends before byte {end}: torn, or still being copied")
    return data
