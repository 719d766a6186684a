"""Weights of the losses and of their terms, with the published values as defaults. Imports no torch."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class DepthLossConfig:
    """Depth loss; the values are Video Depth Anything's."""

    weight: float = 1.0
    """Weight of the depth loss among the geometry losses."""
    space: Literal["linear", "log"] = "linear"
    """Compare depths, or their logarithms: then an error counts relative to the depth."""
    frame: float = 1.0
    """Weight of the masked absolute error."""
    gradient: float = 0.5
    """Weight of the multi-scale spatial gradient."""
    temporal: float = 10.0
    """Weight of temporal gradient matching."""
    confidence: float = 1.0
    """Weight of the term that trains the confidence channel (it does not move the depth)."""
    gate: float = 0.05
    """The temporal term skips pixels whose true depth changes by more than this share of the frame's depth range."""
    scales: int = 4
    """Dyadic scales of the spatial gradient."""
    gamma: float = 1.0
    """Factor of confidence times error."""
    alpha: float = 0.2
    """Reward on log confidence."""
    trim: float = 0.98
    """Share of the pixels with the smallest errors that the confidence term keeps."""


@dataclass(frozen=True, kw_only=True)
class PointLossConfig:
    """Point-map loss; the values are VGGT's."""

    weight: float = 1.0
    """Weight of the point-map loss among the geometry losses."""
    error: Literal["weighted", "plain"] = "weighted"
    """weighted: errors count by the predicted confidence, whose gradient grows without bound as errors shrink. plain:
    errors count alike, and the confidence learns from detached errors with the weight `confidence`."""
    confidence: float = 1.0
    """With plain errors: weight of the term that trains the confidence channel."""
    gamma: float = 1.0
    """Factor of confidence times error."""
    alpha: float = 0.2
    """Reward on log confidence."""
    trim: float = 0.98
    """Share of the pixels with the smallest errors that the confidence term keeps."""
    gradient: float = 1.0
    """Weight of the multi-scale spatial gradient, itself weighted by confidence."""
    scales: int = 3
    """Dyadic scales of the spatial gradient."""


@dataclass(frozen=True, kw_only=True)
class CameraLossConfig:
    """Camera loss; the values are VGGT's, the Huber form is the paper's."""

    weight: float = 3.0
    """Weight of the camera loss among the geometry losses (FantasyWorld, appendix A.3)."""
    kind: Literal["huber", "l1"] = "huber"
    """huber: quadratic below `epsilon`, slope 1 above. l1: absolute error."""
    epsilon: float = 0.1
    """Error at which Huber turns from a parabola into a line (the paper gives no value)."""
    translation: float = 1.0
    """Weight of the three translation entries."""
    rotation: float = 1.0
    """Weight of the four quaternion entries."""
    fov: float = 0.5
    """Weight of the two field-of-view entries."""
    decay: float = 0.6
    """Refinement k of n has the weight `decay ** (n - 1 - k)`."""
    clamp: float = 100.0
    """Largest error of one translation entry."""
    min_pixels: int = 100
    """Frames with fewer valid pixels are skipped (in small frames: with less than 1 % of the pixels)."""


@dataclass(frozen=True, kw_only=True)
class WorldLossConfig:
    """L = L_flow + geometry * (L_depth + L_points + 3 L_camera); paper section 3.4, appendix A.3."""

    geometry: float = 1.0
    """Lambda, the weight of the geometry losses relative to the flow loss (the paper does not state it)."""
    depth: DepthLossConfig = field(default_factory=DepthLossConfig)
    points: PointLossConfig = field(default_factory=PointLossConfig)
    camera: CameraLossConfig = field(default_factory=CameraLossConfig)
