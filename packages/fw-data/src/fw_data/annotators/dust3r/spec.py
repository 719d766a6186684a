"""Spec of the `dust3r` backend."""

from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from fw_data.annotate.scan import ClipPlan
from fw_data.annotators.base import GeometryBackend
from fw_data.annotators.dust3r import LICENSE
from fw_data.annotators.spec import Selection, Settings, plain
from fw_data.media.resize import ResizeCrop

if TYPE_CHECKING:
    from fw_data.options import AnnotateOptions


@dataclass(frozen=True, kw_only=True)
class Dust3rSpec:
    """Point maps of frame pairs and a global alignment; with a depth network, its depth at the scene's scale."""

    options: ClassVar[tuple[str, ...]] = ("dust3r_weights", "depth_weights", "device")
    default_workers: ClassVar[int | None] = 1
    license: ClassVar[str] = LICENSE

    weights: Path
    """The pair network, as safetensors."""
    depth_weights: Path | None = None
    """The depth network, as safetensors; None takes the depth of the point maps."""
    depth_release: str = "small"
    """Which released depth network it is."""
    device: str = "auto"
    """cpu, cuda or auto; see fw_core.devices."""
    name: str = "dust3r"

    @classmethod
    def select(cls, options: "AnnotateOptions", reason: str = "as requested") -> Selection:
        """The given weights, or those in the cache of the hub.

        Raises:
            ValueError: there are no weights; the message names the source and the license.
        """
        from fw_data.annotators.checkpoints import advice, locate
        from fw_data.annotators.dust3r.weights import DEFAULT_RELEASE, RELEASES

        release = RELEASES[DEFAULT_RELEASE]
        if options.dust3r_weights is not None:
            weights = locate(options.dust3r_weights, release)
        elif options.geometry == "auto" and (found := cls.cached()):
            weights = found
        else:
            raise ValueError(f"--geometry dust3r needs --dust3r-weights. {advice(release)}")
        messages = [f"geometry: dust3r ({reason}) with {weights.name}; released DUSt3R weights are under {cls.license}"]
        depth, name = None, "small"
        if options.depth_weights is not None:
            from fw_data.annotators.depth.depth_anything import RELEASES as DEPTH_RELEASES

            known = options.depth_weights in DEPTH_RELEASES
            name = options.depth_weights if known else name
            chosen = DEPTH_RELEASES[name]
            depth = locate(chosen.hub_id if known else options.depth_weights, chosen)
            terms = chosen.license if known else f"of its authors; of the released ones only small is {chosen.license}"
            messages.append(f"depth: Depth Anything V2 from {depth.name}; license {terms}")
        spec = cls(
            weights=weights.resolve(),
            depth_weights=depth and depth.resolve(),
            depth_release=name,
            device=options.device,
        )
        return Selection(spec, tuple(messages))

    @staticmethod
    def cached() -> Path | None:
        """The released weights, if an earlier download left them on this machine."""
        from fw_data.annotators import checkpoints
        from fw_data.annotators.dust3r.weights import DEFAULT_RELEASE, RELEASES

        return checkpoints.cached(RELEASES[DEFAULT_RELEASE])

    @property
    def version(self) -> str:
        """Version of the backend."""
        from fw_data.annotators.dust3r.backend import Dust3rBackend

        return Dust3rBackend.version

    def settings(self) -> Settings:
        """The configuration of the backend, flat, and fingerprints of the weights, without their paths."""
        from fw_data.annotators.checkpoints import fingerprint
        from fw_data.annotators.dust3r.backend import Dust3rBackendConfig

        flat: Settings = {
            "weights": fingerprint(self.weights),
            "depth_weights": fingerprint(self.depth_weights) if self.depth_weights else None,
            "depth_release": self.depth_release if self.depth_weights else None,
        }
        for name, value in asdict(Dust3rBackendConfig()).items():
            inner = {f"{name}.{key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
            flat |= {key: plain(part) for key, part in inner.items()}
        return flat

    def score_meanings(self) -> dict[str, str]:
        """Meaning of the scores of Dust3rBackend."""
        from fw_data.annotators.dust3r.backend import SCORE_MEANINGS

        return SCORE_MEANINGS

    def backend(self, plan: ClipPlan, placement: ResizeCrop) -> GeometryBackend:  # noqa: ARG002 - one for all clips
        """The backend of this process; its networks are loaded once."""
        return load(self)


@cache
def load(spec: Dust3rSpec) -> GeometryBackend:
    """The backend of a spec; loaded once in each process."""
    from fw_core.devices import choose_device
    from fw_data.annotators.depth.depth_anything import load_depth_anything
    from fw_data.annotators.dust3r.backend import Dust3rBackend
    from fw_data.annotators.dust3r.predictor import NetworkPredictor
    from fw_data.annotators.dust3r.weights import load_dust3r

    device = str(choose_device(spec.device))
    depth = None
    if spec.depth_weights is not None:
        depth = load_depth_anything(spec.depth_weights, release=spec.depth_release, device=device)
    return Dust3rBackend(NetworkPredictor(load_dust3r(spec.weights, device=device)), depth=depth)
