"""Spec of the `oracle` backend."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, ClassVar

from fw_data.annotate.scan import ClipPlan
from fw_data.annotators.base import GeometryBackend
from fw_data.annotators.oracle.backend import VERSION, OracleBackend
from fw_data.annotators.spec import Selection, Settings
from fw_data.media.resize import ResizeCrop

if TYPE_CHECKING:
    from fw_data.options import AnnotateOptions


@dataclass(frozen=True, kw_only=True)
class OracleSpec:
    """Geometry read from truth files."""

    options: ClassVar[tuple[str, ...]] = ("truth", "oracle_noise")
    default_workers: ClassVar[int | None] = None
    license: ClassVar[str] = ""

    truth: Path
    """Folder that mirrors the raw folder, with NAME.npz for every NAME.mp4."""
    depth_noise: float = 0.0
    """Relative standard deviation of the depth error that is added."""
    seed: int = 0
    """Noise seed."""
    name: str = "oracle"
    version: str = VERSION

    @classmethod
    def select(cls, options: "AnnotateOptions", reason: str = "") -> Selection:  # noqa: ARG003
        """Read the truth in --truth."""
        if options.truth is None:
            raise ValueError("--geometry oracle needs --truth, the folder of the .npz files")
        if not options.truth.is_dir():
            raise ValueError(f"--truth {options.truth} is not a folder; give the folder of the .npz files")
        return Selection(cls(truth=options.truth.resolve(), depth_noise=options.oracle_noise))

    def settings(self) -> Settings:
        """The noise. The path of the truth is left out: the same truth in another folder gives the same clips."""
        return {"depth_noise": self.depth_noise, "seed": self.seed}

    def score_meanings(self) -> dict[str, str]:
        """No additional scores."""
        return {}

    def backend(self, plan: ClipPlan, placement: ResizeCrop) -> GeometryBackend:
        """A backend for the truth of one clip."""
        return OracleBackend(
            truth=self.truth / PurePosixPath(plan.source).with_suffix(".npz"),
            frame_index=plan.frame_index,
            source_height=plan.info.height,
            source_width=plan.info.width,
            placement=placement,
            depth_noise=self.depth_noise,
            seed=self.seed,
        )
