"""Protocol of a backend's spec, which the pipeline and the command line read."""

from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol, runtime_checkable

from fw_data.annotate.scan import ClipPlan
from fw_data.annotators.base import GeometryBackend
from fw_data.media.resize import ResizeCrop

if TYPE_CHECKING:
    from fw_data.options import AnnotateOptions

Settings = dict[str, str | int | float | bool | None]


@runtime_checkable
class BackendSpec(Protocol):
    """A geometry backend with its settings, small enough to send to another process."""

    @property
    def name(self) -> str:
        """Name on the command line and in datasets."""
        ...

    @property
    def version(self) -> str:
        """Version of the backend; part of the fingerprint."""
        ...

    def settings(self) -> Settings:
        """Every other setting that changes its output."""
        ...

    def score_meanings(self) -> dict[str, str]:
        """Meaning of the scores that it adds, for the dataset card."""
        ...

    def backend(self, plan: ClipPlan, placement: ResizeCrop) -> GeometryBackend:
        """The backend for one clip; networks are loaded on the first call and kept."""
        ...


class GeometrySpec(BackendSpec, Protocol):
    """The spec of a backend that the registry lists."""

    options: ClassVar[tuple[str, ...]]
    """Fields of AnnotateOptions that only this backend reads."""
    default_workers: ClassVar[int | None]
    """Worker processes without --workers; None means one per core."""
    license: ClassVar[str]
    """License of its weights, in one line; empty without weights."""

    @classmethod
    def select(cls, options: "AnnotateOptions", reason: str = "") -> "Selection":
        """The spec for these options. Raises ValueError, with the fix, for options that are missing or wrong."""
        ...


class Selection(NamedTuple):
    """A backend and the sentences about it that the command prints."""

    spec: BackendSpec
    """The backend."""
    messages: tuple[str, ...] = ()
    """Backend, weights and their license."""


def plain(value: object) -> str | int | float | bool | None:
    """A setting as JSON holds it."""
    return value if isinstance(value, (str, int, float, bool)) or value is None else repr(value)
