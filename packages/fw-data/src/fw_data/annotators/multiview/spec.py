"""Specs of the backends whose network reads all frames at once: package, weights, license."""

from abc import abstractmethod
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from fw_data.annotate.scan import ClipPlan
from fw_data.annotators.base import GeometryBackend
from fw_data.annotators.spec import Selection, Settings
from fw_data.media.resize import ResizeCrop

if TYPE_CHECKING:
    from fw_data.annotators.checkpoints import Release
    from fw_data.annotators.multiview.backend import MultiViewNetwork
    from fw_data.options import AnnotateOptions

MIN_SIDE_PX = 28
"""Two patches of these networks."""


@dataclass(frozen=True, kw_only=True)
class MultiViewSpec:
    """A network of other authors: their package, and weights that the user names."""

    options: ClassVar[tuple[str, ...]] = ("network_weights", "device")
    default_workers: ClassVar[int | None] = 1
    min_side: ClassVar[int] = MIN_SIDE_PX
    backend_name: ClassVar[str]
    package: ClassVar[str]
    """The importable package of the authors."""
    install: ClassVar[str]
    """Arguments of pip that install it."""
    license: ClassVar[str]

    weights: Path
    """model.safetensors in a folder with the network's config.json."""
    device: str = "auto"
    """cpu, cuda or auto; see fw_core.devices."""

    @staticmethod
    @abstractmethod
    def releases() -> "tuple[Release, ...]":
        """Published weights, the ones to recommend first."""

    @staticmethod
    @abstractmethod
    def load_network(folder: Path, device: str) -> "MultiViewNetwork":
        """The network with the weights of a folder."""

    @classmethod
    def select(cls, options: "AnnotateOptions", reason: str = "as requested") -> Selection:
        """The given weights.

        Raises:
            ValueError: the package or the weights are missing; the message gives the command or the sources.
        """
        from fw_data.annotators.checkpoints import WEIGHTS, WeightsMissing, advice, locate

        known = ", ".join(f"{release.hub_id} ({release.license})" for release in cls.releases())
        if options.network_weights is None:
            raise ValueError(
                f"--geometry {cls.backend_name} needs --network-weights: a folder with {WEIGHTS} and config.json, or a "
                f"hub id. Released: {known}"
            )
        if find_spec(cls.package) is None:
            raise ValueError(
                f"--geometry {cls.backend_name} needs the package of its authors: pip install '{cls.install}'"
            )
        release = next((r for r in cls.releases() if r.hub_id == options.network_weights), cls.releases()[0])
        weights = locate(options.network_weights, release)
        if weights.name != WEIGHTS or not (weights.parent / "config.json").is_file():
            raise WeightsMissing(
                f"{weights}: {cls.backend_name} reads {WEIGHTS} with the config.json beside it. {advice(release)}"
            )
        named = release.hub_id == options.network_weights
        terms = release.license if named else f"of their authors; released ones: {known}"
        spec = cls(weights=weights.resolve(), device=options.device)
        return Selection(spec, (f"geometry: {cls.backend_name} ({reason}); license of the weights: {terms}",))

    @property
    def name(self) -> str:
        """Name on the command line."""
        return self.backend_name

    @property
    @abstractmethod
    def version(self) -> str:
        """Version of the backend."""

    def settings(self) -> Settings:
        """Fingerprint of the weights, without their path."""
        from fw_data.annotators.checkpoints import fingerprint

        return {"weights": fingerprint(self.weights)}

    def score_meanings(self) -> dict[str, str]:
        """Meaning of the scores of MultiViewBackend."""
        from fw_data.annotators.multiview.backend import SCORE_MEANINGS

        return SCORE_MEANINGS

    def backend(self, plan: ClipPlan, placement: ResizeCrop) -> GeometryBackend:  # noqa: ARG002 - one for all clips
        """The backend of this process; its network is loaded once."""
        return _load(self)


@cache
def _load(spec: MultiViewSpec) -> GeometryBackend:
    from fw_core.devices import choose_device
    from fw_data.annotators.multiview.backend import MultiViewBackend

    return MultiViewBackend(spec.load_network(spec.weights.parent, str(choose_device(spec.device))))
