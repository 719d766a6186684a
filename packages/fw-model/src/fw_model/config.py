"""Model configuration: sizes, connection of the branches, and compatibility with released weights.

All presets share one architecture; a preset is a function that returns a frozen `WorldConfig`. A config is
stored beside the weights as JSON, with the `Compat` fields that a checkpoint was trained with.
"""

import dataclasses
import json
from collections.abc import Callable
from typing import Any, Literal, get_args

PATCH = (1, 2, 2)
"""Latent frames, rows and columns of one video token. A token covers 16 x 16 output pixels in every preset."""
TOKEN_PIXELS = 16
"""Output pixels along the edge of one token (2 latent cells of 8 pixels each)."""
MAX_GRID = 1024
"""Maximum number of latent frames, token rows and token columns in the rotary tables."""
POSE_DIM = 9
"""Translation (3), quaternion x y z w (4), vertical and horizontal field of view in radians (2)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoConfig:
    """The Wan2.x video backbone."""

    dim: int
    """Token width."""
    heads: int
    """Attention heads; `dim / heads` must split into three even rotary parts (12, 24, 32, 48, 96, 128 are safe)."""
    ffn_dim: int
    """Hidden width of the feed-forward layers."""
    blocks: int
    """Transformer blocks in all, preconditioning and reconstruction blocks together."""
    in_dim: int
    """Input channels: 16 of noise, then the conditioning channels `y` (20 = 4 mask + 16 latent, or 16 latent)."""
    text_dim: int
    """Width of the text encoder's output."""
    text_len: int
    """Text tokens; shorter prompts are padded with zeros and not masked."""
    out_dim: int = 16
    """Latent channels predicted."""
    freq_dim: int = 256
    """Width of the timestep sinusoid."""
    clip_dim: int | None = None
    """Width of the CLIP image tokens; None: the model has no image cross-attention."""
    clip_len: int = 257
    """CLIP image tokens."""
    control_dim: int | None = None
    """Channels of the packed Pluecker video that the backbone's own control adapter reads (24); None: it has none."""
    control_pooled: bool = False
    """Whether the control adapter reads the mean of every 8 x 8 block of rays rather than all 64 of them. It costs a
    64th, and equals an adapter of the Fun family whose weights are the same for all rays of a block."""
    gate_start: float = 0.0
    """Added to the residual gates of new blocks: without it a new backbone begins with hardly any attention."""
    eps: float = 1e-6
    """Epsilon of the LayerNorms and RMSNorms of the backbone."""

    @property
    def y_dim(self) -> int:
        """Channels of the conditioning tensor `y`: 0, 16 (image latent) or 20 (mask and image latent)."""
        return self.in_dim - self.out_dim


@dataclasses.dataclass(frozen=True, kw_only=True)
class CameraConfig:
    """Camera control: a pose encoder over Pluecker maps, and shift-only adapters in the first blocks (App. A.1)."""

    adapter_blocks: int
    """Number of video blocks with an adapter, counted from the first."""
    feature_dim: int
    """Width of the camera features, one per video token."""
    in_channels: int = 6
    """Channels of the Pluecker map: moment o x d, then direction d."""
    downscale: int = 8
    """Pixels per latent cell along an edge; the Pluecker map has `downscale` times the latent's size."""
    channels: int | None = None
    """Width of the encoder's convolutions; None: `in_channels * downscale^2`, as released (384)."""
    activation: Literal["relu", "gelu"] = "relu"
    """Of the adapters' two small networks. The released ReLUs can die at high learning rates, for good: then the camera
    no longer steers."""

    @property
    def unshuffled(self) -> int:
        """Channels after the pixel-unshuffle."""
        return self.in_channels * self.downscale**2


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeometryConfig:
    """The geometry branch: latent bridge, frame and global attention layers, three heads."""

    width: int
    """Token width; the heads see frame and global features side by side, so twice this."""
    heads: int
    """Attention heads; `width / heads` must be divisible by 4 (two axes, half-split rotation)."""
    dpt_taps: tuple[int, int, int, int]
    """Geometry layer (0-based) that feeds DPT stream 0..3, the deepest first."""
    mlp_ratio: int = 4
    """Hidden width of the MLPs, in units of the token width."""
    freq_dim: int = 256
    """Width of the timestep sinusoid."""
    bridge: Literal["conv", "transformer"] = "conv"
    """Latent bridge: one 1x1x1 convolution (released), or a linear layer and transformer blocks (paper)."""
    bridge_depth: int = 2
    """Blocks of the transformer bridge."""
    num_register_tokens: int = 4
    """Register tokens per latent frame, after its camera token."""
    camera_trunk: int = 4
    """Transformer blocks of the camera head."""
    camera_heads: int = 16
    """Attention heads of the camera head."""
    camera_iterations: int = 4
    """Refinements of the pose."""
    dpt_features: int = 256
    """Width of the DPT fusion (a multiple of 8)."""
    dpt_channels: tuple[int, int, int, int] = (256, 512, 1024, 1024)
    """Widths of the four DPT streams (multiples of 4)."""
    dpt_hidden: int = 32
    """Width before the last 1x1 convolution of a DPT head."""
    layer_scale: float = 0.01
    """Start of the LayerScale factors of new weights: small where a pretrained branch is loaded afterwards."""
    gate_start: float = 0.0
    """Added to the MLP gates of new geometry blocks."""
    time_index: Literal["none", "additive", "rotary"] = "none"
    """How tokens encode their latent frame: not at all (released), by a sinusoid added to the
    tokens after the bridge, or by a rotation of queries and keys in the global attention."""

    @property
    def num_special_tokens(self) -> int:
        """Tokens of a frame before its patches: camera and registers."""
        return 1 + self.num_register_tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class CrossBranchConfig:
    """Bidirectional cross-attention between the branches."""

    dim: int
    """Hidden width of the shared attention."""
    heads: int
    """Attention heads; `dim / heads` must split into three even rotary parts."""
    direction: Literal["both", "to_geometry", "to_video", "none"] = "both"
    """Which branch reads the other: each the other, geometry alone the video, video alone the geometry, or neither.
    For ablations; parts that a direction does not use have no weights."""

    @property
    def video_reads(self) -> bool:
        """Whether the video branch reads the geometry branch."""
        return self.direction in ("both", "to_video")

    @property
    def geometry_reads(self) -> bool:
        """Whether the geometry branch reads the video branch."""
        return self.direction in ("both", "to_geometry")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compat:
    """Choices in which the released code differs from the paper or from its intent. Each changes a tensor.

    The defaults are for new training. `Compat.released()` matches the training of the released weights; where the
    two agree, the released behavior is kept on purpose and the other value is there for ablations.
    """

    plucker: Literal["correct", "double_scaled", "relative"] = "correct"
    """Pluecker rays fed to the model: true pinhole rays; the released ones whose intrinsics are scaled twice; or (tiny)
    true ones with the change of the direction since frame 0 in place of the direction."""
    timestep_rounding: Literal["none", "bf16"] = "none"
    """Whether t (and the video sinusoid) is rounded to bfloat16, as the released weights saw it."""
    camera_token_order: Literal["interleaved", "block"] = "interleaved"
    """Frame that an expanded camera token lands on: its own four frames, or slot m from token 1 + m mod (f-1)."""
    camera_token_norm: bool = True
    """Whether expanded camera tokens are layer-normalized like the first one (released: no)."""
    pose_token_padding: Literal["start", "end"] = "start"
    """Where known poses get three copies of frame 0 before grouping by four; only "start" matches the latent frames."""
    geometry_mlp_modulation: Literal["after", "before"] = "after"
    """Whether the timestep's shift and scale act on the output (released) or the input of a geometry MLP."""
    geometry_attention_gate: bool = False
    """Whether the timestep's attention gate (row 2) is applied in geometry blocks (released: no)."""
    cross_branch_placement: Literal["before_mlp", "after_block"] = "before_mlp"
    """Place of the cross-branch attention: between attention and MLP (released) or after the whole block."""
    dpt_rectified_skip: bool = True
    """Whether the skip of a DPT residual unit is rectified too (released: an in-place ReLU does it)."""
    idle_trunk_modulation: bool = False
    """Whether camera-head blocks have an unused modulation table, as the released files do."""

    @classmethod
    def released(cls) -> "Compat":
        """The settings that the released checkpoints were trained and run with."""
        return cls(
            plucker="double_scaled",
            timestep_rounding="bf16",
            camera_token_order="block",
            camera_token_norm=False,
            pose_token_padding="end",
            idle_trunk_modulation=True,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """Definition of the network: weights of two configs with equal JSON are interchangeable."""

    name: str
    """Name of the preset, compared when a checkpoint is loaded."""
    video: VideoConfig
    geometry: GeometryConfig
    cross_branch: CrossBranchConfig
    camera: CameraConfig | None
    """None: the model has no pose encoder and no adapters (Wan2.2, steered by its control adapter alone)."""
    pcb_blocks: int
    """Preconditioning blocks; the other video blocks each get a geometry layer and cross-branch attention (IRG). With 0
    the geometry branch starts from the embedded patches."""
    timestep_range: tuple[float, float] = (0.0, 1000.0)
    """The model is for timesteps in (low, high]; the two Wan2.2 experts split at 900."""
    compat: Compat = dataclasses.field(default_factory=Compat)

    def __post_init__(self) -> None:
        _validate(self)

    @property
    def irg_blocks(self) -> int:
        """Integrated reconstruction and generation blocks."""
        return self.video.blocks - self.pcb_blocks

    def has_adapter(self, block: int) -> bool:
        """Whether video block `block` (counted over all blocks) has a camera adapter."""
        return self.camera is not None and block < self.camera.adapter_blocks

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, for JSON. Fields added later are left out at their default, so that older runs resume."""
        values = json.loads(json.dumps(dataclasses.asdict(self)))
        for part, fields in _ADDED_LATER.items():
            for name in fields if values[part] is not None else ():
                if values[part][name] == getattr(type(getattr(self, part)), name):
                    del values[part][name]
        return _renamed(values, _STORED)

    def to_json(self) -> str:
        """Readable JSON with a final newline."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "WorldConfig":
        """The inverse of `to_dict`. Raises ValueError that names unknown or missing fields."""
        parts: dict[str, type] = {
            "video": VideoConfig,
            "geometry": GeometryConfig,
            "cross_branch": CrossBranchConfig,
            "camera": CameraConfig,
            "compat": Compat,
        }
        values = _renamed(values, {where: {new: old for old, new in names.items()} for where, names in _STORED.items()})
        known = {
            key: _build(parts[key], value, key) if key in parts and value is not None else value
            for key, value in values.items()
        }
        return _build(cls, known, "world config")

    @classmethod
    def from_json(cls, text: str) -> "WorldConfig":
        """The inverse of `to_json`."""
        return cls.from_dict(json.loads(text))


_STORED = {
    "": {"cross_branch": "coupling"},
    "geometry": {"num_register_tokens": "registers"},
    "compat": {"cross_branch_placement": "coupling_placement"},
}
"""Fields whose name in config.json differs: part of the config -> field -> stored name."""

_ADDED_LATER = {
    "video": ("control_pooled", "gate_start"),
    "geometry": ("gate_start", "time_index"),
    "camera": ("activation",),
    "cross_branch": ("direction",),
}


def _renamed(values: dict[str, Any], names: dict[str, dict[str, str]]) -> dict[str, Any]:
    """Fields of the config, and of its parts, under other names."""
    top = {names[""].get(key, key): value for key, value in values.items()}
    for part, table in names.items():
        if isinstance(top.get(part), dict):
            top[part] = {table.get(key, key): value for key, value in top[part].items()}
    return top


def _build(kind: type, values: dict[str, Any], where: str) -> Any:
    fields = {field.name: field for field in dataclasses.fields(kind)}
    unknown = sorted(set(values) - set(fields))
    required = {
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    missing = sorted(required - set(values))
    if unknown or missing:
        raise ValueError(
            f"{where}: unknown fields {unknown}, missing fields {missing}. "
            "The file was written by another version, or edited by hand; known fields are " + ", ".join(fields) + "."
        )
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def _validate(config: WorldConfig) -> None:
    video, geometry, cross_branch = config.video, config.geometry, config.cross_branch
    problems: list[str] = []

    def need(condition: bool, problem: str) -> None:
        if not condition:
            problems.append(problem)

    for name, width, heads in (
        ("video", video.dim, video.heads),
        ("cross_branch", cross_branch.dim, cross_branch.heads),
    ):
        even = width % heads == 0 and (width // heads) % 2 == 0 and (width // heads // 3) % 2 == 0
        need(even, f"{name}: head width {width}/{heads} must be whole and split into three even rotary parts")
    need(geometry.width % (4 * geometry.heads) == 0, "geometry.width must be a multiple of 4 * geometry.heads")
    need(2 * geometry.width % geometry.camera_heads == 0, "2 * geometry.width must be a multiple of camera_heads")
    need(geometry.dpt_features % 8 == 0, "geometry.dpt_features must be a multiple of 8")
    need(all(c % 4 == 0 for c in geometry.dpt_channels), "geometry.dpt_channels must be multiples of 4")
    need(0 <= config.pcb_blocks < video.blocks, f"pcb_blocks must be in 0..{video.blocks - 1}")
    directions = get_args(CrossBranchConfig.__annotations__["direction"])
    need(cross_branch.direction in directions, f"cross_branch.direction must be one of {', '.join(directions)}")
    need(
        all(0 <= tap < config.irg_blocks for tap in geometry.dpt_taps),
        f"geometry.dpt_taps {geometry.dpt_taps} must be in 0..{config.irg_blocks - 1}",
    )
    need(video.y_dim in (0, 16, 20), f"video.in_dim {video.in_dim} must be 16, 32 or 36")
    if config.camera is not None:
        need(config.camera.activation in ("relu", "gelu"), "camera.activation must be relu or gelu")
    need(video.control_dim is not None or not video.control_pooled, "video.control_pooled needs video.control_dim")
    indices = get_args(GeometryConfig.__annotations__["time_index"])
    need(geometry.time_index in indices, f"geometry.time_index must be one of {', '.join(indices)}")
    need(video.freq_dim % 2 == 0 and geometry.freq_dim % 2 == 0, "freq_dim must be even")
    if config.camera is not None:
        need(config.camera.adapter_blocks <= video.blocks, "camera.adapter_blocks exceeds video.blocks")
        need(config.camera.feature_dim >= 5, "camera.feature_dim must be at least 5")
    low, high = config.timestep_range
    need(0 <= low < high <= 1000, "timestep_range must satisfy 0 <= low < high <= 1000")
    if problems:
        raise ValueError(f"Config {config.name!r} cannot be built: " + "; ".join(problems) + ".")


def tiny() -> WorldConfig:
    """About 9 M parameters, for two CPU cores: 4 preconditioning blocks, 8 IRG blocks, no CLIP."""
    return WorldConfig(
        name="tiny",
        video=VideoConfig(dim=160, heads=5, ffn_dim=480, blocks=12, in_dim=32, text_dim=64, text_len=16),
        geometry=GeometryConfig(
            width=96,
            heads=4,
            dpt_taps=(7, 5, 3, 2),
            camera_trunk=1,
            camera_heads=4,
            dpt_features=24,
            dpt_channels=(24, 32, 32, 32),
            dpt_hidden=16,
            layer_scale=0.05,
            time_index="additive",
        ),
        cross_branch=CrossBranchConfig(dim=96, heads=4),
        camera=CameraConfig(adapter_blocks=7, feature_dim=128, channels=128, activation="gelu"),
        pcb_blocks=4,
        compat=Compat(plucker="relative"),
    )


def small_world() -> WorldConfig:
    """The shipped small world: 13.8 M parameters for rooms of 17 frames at 96 x 144, 4 + 6 blocks.

    The camera enters through the backbone's own control adapter, which every stage trains or reads.
    """
    return WorldConfig(
        name="small_world",
        video=VideoConfig(
            dim=192,
            heads=4,
            ffn_dim=768,
            blocks=10,
            in_dim=32,
            text_dim=64,
            text_len=16,
            control_dim=24,
            control_pooled=True,
            gate_start=0.3,
        ),
        geometry=GeometryConfig(
            width=128,
            heads=4,
            dpt_taps=(5, 4, 2, 0),
            camera_trunk=1,
            camera_heads=4,
            dpt_features=24,
            dpt_channels=(16, 32, 48, 48),
            dpt_hidden=16,
            layer_scale=0.3,
            gate_start=1.0,
            time_index="additive",
        ),
        cross_branch=CrossBranchConfig(dim=96, heads=4),
        camera=None,
        pcb_blocks=4,
    )


def wan21_fun_1_3b() -> WorldConfig:
    """The main preset: Wan2.1-Fun-V1.1-1.3B-Control-Camera, 12 + 18 blocks, its own control adapter kept."""
    return WorldConfig(
        name="wan21_fun_1_3b",
        video=VideoConfig(
            dim=1536,
            heads=12,
            ffn_dim=8960,
            blocks=30,
            in_dim=32,
            text_dim=4096,
            text_len=512,
            clip_dim=1280,
            control_dim=24,
        ),
        geometry=GeometryConfig(width=1024, heads=16, dpt_taps=(17, 13, 8, 5)),
        cross_branch=CrossBranchConfig(dim=1152, heads=12),
        camera=CameraConfig(adapter_blocks=12, feature_dim=2048),
        pcb_blocks=12,
    )


def wan21_i2v_14b() -> WorldConfig:
    """The released model on Wan2.1-I2V-14B-480P: 16 + 24 blocks, 25 camera adapters, every quirk kept."""
    return WorldConfig(
        name="wan21_i2v_14b",
        video=VideoConfig(
            dim=5120, heads=40, ffn_dim=13824, blocks=40, in_dim=36, text_dim=4096, text_len=512, clip_dim=1280
        ),
        geometry=GeometryConfig(width=1024, heads=16, dpt_taps=(23, 17, 11, 7)),
        cross_branch=CrossBranchConfig(dim=1152, heads=12),
        camera=CameraConfig(adapter_blocks=25, feature_dim=2048),
        pcb_blocks=16,
        compat=Compat.released(),
    )


def wan22_fun_a14b(expert: Literal["high_noise", "low_noise"] = "low_noise") -> WorldConfig:
    """One of the two released experts on Wan2.2-Fun-A14B-Control-Camera; geometry is read from the low-noise one.

    Its control adapter comes from a base trained on correct Pluecker rays, so `compat.plucker` is "correct" here; the
    other quirks are those of the Wan2.1 release.
    """
    return WorldConfig(
        name=f"wan22_fun_a14b_{expert}",
        video=VideoConfig(
            dim=5120, heads=40, ffn_dim=13824, blocks=40, in_dim=36, text_dim=4096, text_len=512, control_dim=24
        ),
        geometry=GeometryConfig(width=1024, heads=16, dpt_taps=(23, 17, 11, 7)),
        cross_branch=CrossBranchConfig(dim=1152, heads=12),
        camera=None,
        pcb_blocks=16,
        timestep_range=(0.0, 900.0) if expert == "low_noise" else (900.0, 1000.0),
        compat=dataclasses.replace(Compat.released(), plucker="correct"),
    )


PRESETS: dict[str, Callable[[], WorldConfig]] = {
    "tiny": tiny,
    "small_world": small_world,
    "wan21_fun_1_3b": wan21_fun_1_3b,
    "wan21_i2v_14b": wan21_i2v_14b,
    "wan22_fun_a14b": wan22_fun_a14b,
}


def preset(name: str) -> WorldConfig:
    """The config of a preset. Raises ValueError that lists the presets."""
    if name not in PRESETS:
        raise ValueError(f"Unknown preset {name!r}; presets are {', '.join(PRESETS)}.")
    return PRESETS[name]()
