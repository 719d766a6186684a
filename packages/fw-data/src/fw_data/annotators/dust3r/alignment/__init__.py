"""Global alignment: the point maps of many pairs of frames become one scene with one camera per frame."""

from fw_data.annotators.dust3r.alignment.clouds import (
    AlignmentConfig,
    AlignmentFailed,
    PairClouds,
    SceneAlignment,
)
from fw_data.annotators.dust3r.alignment.solve import align

__all__ = ["AlignmentConfig", "AlignmentFailed", "PairClouds", "SceneAlignment", "align"]
