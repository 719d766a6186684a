"""Geometry backends as `--geometry` names them: small descriptions that travel to worker processes.

A new backend is one more class here, or a class of somebody else behind PluginSpec; the pipeline knows only
config.BackendSpec.
"""

from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from fw_data.annotate.plugins import load_function
from fw_data.annotate.scan import ClipPlan
from fw_data.annotators.base import GeometryBackend
from fw_data.annotators.oracle import VERSION as ORACLE_VERSION
from fw_data.annotators.oracle import OracleBackend
from fw_data.media.resize import Placement

_SFM_SCORES = {
    "reprojection_px": "median error of the scene points, in pixels of the frames",
    "parallax_deg": "median angle under which scene points are seen",
    "points_per_frame": "scene points that a frame sees",
    "match_inlier_fraction": "fraction of matches that fit a rigid scene",
    "depth_confirmed": "fraction of pixels whose depth other frames confirm",
    "rolling_shutter": "readout time as a fraction of the frame interval",
    "radial_distortion": "first radial coefficient of the lens",
}


@dataclass(frozen=True, kw_only=True)
class OracleSpec:
    """Geometry read from truth files."""

    truth: Path
    """Folder that mirrors the raw folder, with NAME.npz for every NAME.mp4."""
    depth_noise: float = 0.0
    """Relative standard deviation of the depth error that is added."""
    seed: int = 0
    """Of the noise."""
    name: str = "oracle"
    version: str = ORACLE_VERSION

    def settings(self) -> dict[str, str | int | float | bool | None]:
        """Not the place of the truth: the same truth elsewhere gives the same clips."""
        return {"depth_noise": self.depth_noise, "seed": self.seed}

    def score_meanings(self) -> dict[str, str]:
        """It adds none."""
        return {}

    def backend(self, plan: ClipPlan, placement: Placement) -> GeometryBackend:
        """The truth of one clip."""
        return OracleBackend(
            truth=self.truth / PurePosixPath(plan.source).with_suffix(".npz"),
            frame_index=plan.frame_index,
            source_height=plan.info.height,
            source_width=plan.info.width,
            placement=placement,
            depth_noise=self.depth_noise,
            seed=self.seed,
        )


@dataclass(frozen=True, kw_only=True)
class SfmSpec:
    """Structure from motion: matches, bundle adjustment, plane sweep."""

    name: str = "sfm"

    @property
    def version(self) -> str:
        """Of the backend."""
        return _sfm().version

    def settings(self) -> dict[str, str | int | float | bool | None]:
        """The configuration of the backend, flat."""
        from fw_data.annotators.sfm import SfmConfig

        return {name: _plain(value) for name, value in asdict(SfmConfig()).items()}

    def score_meanings(self) -> dict[str, str]:
        """Those of SfmBackend."""
        return _SFM_SCORES

    def backend(self, plan: ClipPlan, placement: Placement) -> GeometryBackend:  # noqa: ARG002 - one for all clips
        """The one backend of this process; its networks load once."""
        return _sfm()


@dataclass(frozen=True, kw_only=True)
class Dust3rSpec:
    """Point maps of frame pairs and a global alignment; with a depth network, its depth at the scene's scale."""

    weights: Path
    """The pair network, as safetensors."""
    depth_weights: Path | None = None
    """The depth network, as safetensors; None takes the depth of the point maps."""
    depth_release: str = "small"
    """Which released depth network it is."""
    device: str = "auto"
    """auto: a GPU if there is one."""
    name: str = "dust3r"

    @property
    def version(self) -> str:
        """Of the backend."""
        from fw_data.annotators.dust3r.backend import Dust3rBackend

        return Dust3rBackend.version

    def settings(self) -> dict[str, str | int | float | bool | None]:
        """The configuration of the backend, flat, and which weights these are; not where they lie."""
        from fw_data.annotators.checkpoints import fingerprint
        from fw_data.annotators.dust3r.backend import Dust3rBackendConfig

        flat: dict[str, str | int | float | bool | None] = {
            "weights": fingerprint(self.weights),
            "depth_weights": fingerprint(self.depth_weights) if self.depth_weights else None,
            "depth_release": self.depth_release if self.depth_weights else None,
        }
        for name, value in asdict(Dust3rBackendConfig()).items():
            inner = {f"{name}.{key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
            flat |= {key: _plain(part) for key, part in inner.items()}
        return flat

    def score_meanings(self) -> dict[str, str]:
        """Those of Dust3rBackend."""
        from fw_data.annotators.dust3r.backend import SCORE_MEANINGS

        return SCORE_MEANINGS

    def backend(self, plan: ClipPlan, placement: Placement) -> GeometryBackend:  # noqa: ARG002 - one for all clips
        """The one backend of this process; its networks load once."""
        return _dust3r(self)


@dataclass(frozen=True, kw_only=True)
class PluginSpec:
    """A backend of somebody else: a GeometryBackend class that takes no arguments, named as MODULE:CLASS.

    The class itself says its `name` and `version`; it may have `settings` (name -> value: whatever else changes its
    output, such as which weights) and `score_meanings` (score -> meaning), both as class attributes. It is made once in
    every process, on the first clip.
    """

    path: str
    """MODULE:CLASS."""

    def __post_init__(self) -> None:
        found = _plugin_class(self.path)
        for attribute in ("name", "version"):
            if not isinstance(getattr(found, attribute, None), str):
                raise ValueError(f"--geometry {self.path}: the class needs a str attribute {attribute!r}")
        if not callable(getattr(found, "annotate", None)):
            raise ValueError(f"--geometry {self.path}: the class needs a method annotate(frames, *, progress)")

    @property
    def name(self) -> str:
        """As the class says."""
        return _plugin_class(self.path).name

    @property
    def version(self) -> str:
        """As the class says."""
        return _plugin_class(self.path).version

    def settings(self) -> dict[str, str | int | float | bool | None]:
        """What the class says, and where it is found."""
        said = getattr(_plugin_class(self.path), "settings", {})
        return {"path": self.path} | {str(name): _plain(value) for name, value in said.items()}

    def score_meanings(self) -> dict[str, str]:
        """What the class says."""
        return dict(getattr(_plugin_class(self.path), "score_meanings", {}))

    def backend(self, plan: ClipPlan, placement: Placement) -> GeometryBackend:  # noqa: ARG002 - one for all clips
        """The one backend of this process."""
        return _plugin(self.path)


def _plugin_class(path: str) -> Any:
    return load_function(path, "--geometry")


@cache
def _plugin(path: str) -> GeometryBackend:
    return _plugin_class(path)()


@cache
def _dust3r(spec: Dust3rSpec) -> GeometryBackend:
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


@cache
def _sfm() -> GeometryBackend:
    from fw_data.annotators.sfm import SfmBackend, SfmConfig

    return SfmBackend(SfmConfig())


def _plain(value: object) -> str | int | float | bool | None:
    return value if isinstance(value, (str, int, float, bool)) or value is None else repr(value)
