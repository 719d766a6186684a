"""Specs of the backends whose network reads all frames at once: package, weights, license."""

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from fw_data.annotate.scan import ClipPlan
from fw_data.annotators.base import GeometryBackend
from fw_data.annotators.spec import Selection, Settings
from fw_data.media.resize import ResizeCrop

if TYPE_CHECKING:
    from fw_data.annotators.checkpoints import Release
    from fw_data.annotators.multiview.backend import LoadableNetwork
    from fw_data.options import AnnotateOptions

MIN_SIDE_PX = 28
"""Two patches of these networks."""
ANY_USE, NO_COMMERCE = "Apache-2.0 (any use)", "CC BY-NC 4.0 (no commercial use)"
"""Licenses of released weights."""


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
    network: ClassVar[str]
    """Module and class of the adapter, a `LoadableNetwork`; imported when it is needed, because it imports torch."""
    released: ClassVar[dict[str, str]]
    """Hub id of published weights -> their license, the ones to recommend first."""
    license: ClassVar[str]

    weights: Path
    """model.safetensors in a folder with the network's config.json."""
    device: str = "auto"
    """cpu, cuda or auto; see fw_core.devices."""

    @classmethod
    def select(cls, options: "AnnotateOptions", reason: str = "as requested") -> Selection:
        """The given weights.

        Raises:
            ValueError: the package or the weights are missing; the message gives the command or the sources.
        """
        from fw_data.annotators.checkpoints import WEIGHTS, WeightsMissing, advice, locate

        known = ", ".join(f"{hub_id} ({terms})" for hub_id, terms in cls.released.items())
        if options.network_weights is None:
            raise ValueError(
                f"--geometry {cls.backend_name} needs --network-weights: a folder with {WEIGHTS} and config.json, or a "
                f"hub id. Released: {known}"
            )
        if find_spec(cls.package) is None:
            raise ValueError(
                f"--geometry {cls.backend_name} needs the package of its authors: pip install '{cls.install}'"
            )
        named = options.network_weights in cls.released
        release = cls._release(options.network_weights if named else next(iter(cls.released)))
        weights = locate(options.network_weights, release)
        if weights.name != WEIGHTS or not (weights.parent / "config.json").is_file():
            raise WeightsMissing(
                f"{weights}: {cls.backend_name} reads {WEIGHTS} with the config.json beside it. {advice(release)}"
            )
        terms = release.license if named else f"of their authors; released ones: {known}"
        spec = cls(weights=weights.resolve(), device=options.device)
        return Selection(spec, (f"geometry: {cls.backend_name} ({reason}); license of the weights: {terms}",))

    @property
    def name(self) -> str:
        """Name on the command line."""
        return self.backend_name

    @property
    def version(self) -> str:
        """Version of the adapter."""
        return self.network_class().version

    @classmethod
    def network_class(cls) -> "type[LoadableNetwork]":
        """The class of the adapter."""
        module, _, name = cls.network.partition(":")
        return getattr(import_module(module), name)

    @classmethod
    def _release(cls, hub_id: str) -> "Release":
        from fw_data.annotators.checkpoints import Release

        terms = cls.released[hub_id]
        name = hub_id.rpartition("/")[2].lower()
        return Release(name=name, hub_id=hub_id, license=terms, permissive=terms == ANY_USE)

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

    return MultiViewBackend(spec.network_class().load(spec.weights.parent, str(choose_device(spec.device))))
