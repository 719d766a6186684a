"""Geometry backends as `--geometry` names them: small descriptions that travel to worker processes.

A new backend is one more class here; the pipeline knows only config.BackendSpec.
"""

from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path, PurePosixPath

from fw_data.annotators.base import GeometryBackend
from fw_data.annotators.oracle import VERSION as ORACLE_VERSION
from fw_data.annotators.oracle import OracleBackend
from fw_data.media.resize import Placement
from fw_data.survey import ClipPlan

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


@cache
def _sfm() -> GeometryBackend:
    from fw_data.annotators.sfm import SfmBackend, SfmConfig

    return SfmBackend(SfmConfig())


def _plain(value: object) -> str | int | float | bool | None:
    return value if isinstance(value, (str, int, float, bool)) or value is None else repr(value)
