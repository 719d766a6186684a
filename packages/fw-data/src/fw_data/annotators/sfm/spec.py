"""Spec of the `sfm` backend."""

from dataclasses import asdict, dataclass
from functools import cache
from typing import TYPE_CHECKING, ClassVar

from fw_data.annotate.scan import ClipPlan
from fw_data.annotators.base import GeometryBackend
from fw_data.annotators.sfm.config import MIN_SIDE_PX, Flow, SecondMatcher
from fw_data.annotators.spec import Selection, Settings, plain
from fw_data.media.resize import ResizeCrop

if TYPE_CHECKING:
    from fw_data.options import AnnotateOptions

SCORE_MEANINGS = {
    "reprojection_px": "median error of the scene points, in pixels of the frames",
    "parallax_deg": "median angle under which scene points are seen",
    "points_per_frame": "scene points that a frame sees",
    "match_inlier_fraction": "fraction of matches that fit a rigid scene",
    "depth_confirmed": "fraction of pixels whose depth other frames confirm",
    "rolling_shutter": "readout time as a fraction of the frame interval",
    "radial_distortion": "first radial coefficient of the lens",
    "focal_sigma": "standard deviation of the logarithm of the focal length",
    "focal_drift": "largest difference in log focal length between a third of the clip alone and the whole",
    "path_drift": "largest distance of the cameras of a third alone from those of the whole, over its path",
    "second_matcher": "1 where ALIKED with LightGlue found the matches, because XFeat found too few",
}


@dataclass(frozen=True, kw_only=True)
class SfmSpec:
    """Structure from motion: matches, bundle adjustment, plane sweep."""

    options: ClassVar[tuple[str, ...]] = ("second_matcher", "flow")
    default_workers: ClassVar[int | None] = 2  # two clips share the cores; a single clip uses all of them
    license: ClassVar[str] = ""
    min_side: ClassVar[int] = MIN_SIDE_PX
    second_matcher: SecondMatcher = "auto"
    """ALIKED with LightGlue before a refusal; see SfmConfig."""
    flow: Flow = "none"
    """Network for depth where the search is unsure; see SfmConfig."""
    name: str = "sfm"

    @classmethod
    def select(cls, options: "AnnotateOptions", reason: str = "") -> Selection:
        """The default configuration, with the networks that are asked for; missing weights are downloaded now.

        Raises:
            ValueError: the weights cannot be downloaded.
        """
        second = options.second_matcher
        if second != "none":
            from fw_data.annotators.sfm.matching.networks import second_matcher_is_ready

            # decided once, so that all workers of a run do the same
            second = "aliked" if second_matcher_is_ready(second) else "none"
        if options.flow == "gmflow":
            from fw_data.annotators.gmflow.weights import fetch_gmflow

            fetch_gmflow()
        spec = cls(second_matcher=second, flow=options.flow)
        return Selection(spec, (f"geometry: sfm, {reason}",) if reason else ())

    @property
    def version(self) -> str:
        """Version of the backend."""
        return _sfm(self.second_matcher, self.flow).version

    def settings(self) -> Settings:
        """The configuration of the backend, flat; without the second matcher and the threads, which change no clip."""
        from fw_data.annotators.sfm import SfmConfig

        table = {name: plain(value) for name, value in asdict(SfmConfig(flow=self.flow)).items()}
        del table["second_matcher"], table["threads"]
        if self.flow == "none":  # datasets from before the option have no such key
            del table["flow"]
        return table

    def score_meanings(self) -> dict[str, str]:
        """Meaning of the scores of SfmBackend."""
        return SCORE_MEANINGS

    def backend(self, plan: ClipPlan, placement: ResizeCrop) -> GeometryBackend:  # noqa: ARG002 - one for all clips
        """The backend of this process; its networks are loaded once."""
        return _sfm(self.second_matcher, self.flow)


@cache
def _sfm(second_matcher: SecondMatcher, flow: Flow) -> GeometryBackend:
    from fw_data.annotators.sfm import SfmBackend, SfmConfig

    return SfmBackend(SfmConfig(second_matcher=second_matcher, flow=flow))
