"""`GenerationSettings`: everything that controls a generation beside its images, prompt and camera path.

The pipeline, the command line, the HTTP API, its client and the workers all use this class. To add a parameter, add a
field here and use it in the pipeline. Imports no torch.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from fw_geometry.clip_shape import check_num_frames, check_side
from fw_model.sampling.choices import SamplerName, check_sampler, check_threshold, check_timesteps

Fit = Literal["crop", "stretch"]

WAN_NEGATIVE_PROMPT = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，丑陋的，残缺的，"
    "多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条腿，"
    "背景人很多，倒着走"
)
"""Default negative prompt of the Wan2.1 release (`sample_neg_prompt`); DiffSynth and diffusers default to none."""

_FORMER_NAMES = {
    "frames": "num_frames",
    "steps": "num_inference_steps",
    "guidance": "guidance_scale",
    "couple": "cross_branch",
    "end_image": "last_image",
}
"""Former name in stored files -> current name."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """A model's default settings, stored in its pipeline.json."""

    num_frames: int = 17
    """Clip length, 4n + 1."""
    height: int = 64
    """Height in pixels, a multiple of 16."""
    width: int = 96
    """Width in pixels, a multiple of 16."""
    fps: float = 16.0
    """Frames per second."""
    num_inference_steps: int = 50
    """Denoising steps."""
    guidance_scale: float = 5.0
    """Classifier-free guidance on the text; 1 disables it."""
    shift: float = 5.0
    """Shift of the noise schedule towards high noise, as in training."""
    sampler: str = "euler"
    """Name of the sampler."""
    timesteps: tuple[float, ...] | None = None
    """The denoising steps as a list, of a model that was distilled to them; see `GenerationSettings.timesteps`."""
    negative_prompt: str = ""
    """Text that guidance moves away from."""

    @classmethod
    def for_text_dim(cls, text_dim: int) -> "Sampling":
        """The released size and length for models with Wan's text width, the small defaults otherwise."""
        return cls(num_frames=81, height=336, width=592) if text_dim == 4096 else cls()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, base: "Sampling | None" = None) -> "Sampling":
        """`base` with the given fields replaced. ValueError for an unknown field."""
        sampling = replace(base or cls(), **_known(values, cls))
        if sampling.timesteps is None:
            return sampling
        check_timesteps(sampling.timesteps)
        return replace(sampling, num_inference_steps=len(sampling.timesteps))


@dataclass(frozen=True, kw_only=True)
class GenerationSettings:
    """Settings of one generation. Omitted ones (None) take the model's default."""

    num_frames: int | None = None
    """Number of frames, 4n + 1, such as 17 or 81."""
    height: int | None = None
    """Height in pixels, a multiple of 16."""
    width: int | None = None
    """Width in pixels, a multiple of 16."""
    num_inference_steps: int | None = None
    """Denoising steps: network evaluations per guidance branch."""
    guidance_scale: float | None = None
    """Classifier-free guidance on the text; 1 disables it and halves the time."""
    negative_prompt: str | None = None
    """Text that guidance moves away from."""
    sampler: SamplerName | None = None
    """Sampler of the denoising steps."""
    shift: float | None = None
    """Shift of the noise schedule towards high noise; 1 leaves it uniform."""
    timesteps: tuple[float, ...] | None = None
    """The denoising steps as a list of falling timesteps up to 1000, instead of num_inference_steps, for models and
    LoRAs that are distilled to them: 1000,750,500,250. The shift applies to the list; with shift 1 it is used as it
    is."""
    seed: int = 0
    """Noise seed: the same seed gives the same noise on every device."""
    scene_scale: float = 1.0
    """Mean distance of the visible scene, in the unit of the camera path. Results are in the path's unit too."""
    fit: Fit = "crop"
    """How an image of another aspect ratio fills the frame: crop keeps the ratio, stretch does not."""
    easycache: float | None = None
    """Reuse steps that would change little, up to this accumulated relative change (0.02 to 0.2): faster, and slightly
    different. Default: every step is computed."""
    cross_branch: bool = True
    """Let the video branch and the geometry branch attend to each other. Without it: for ablations."""

    def validate(self) -> None:
        """Check every given value.

        Raises:
            TypeError: a value of another type; the message names the field.
            ValueError: a value outside the valid range; the message names the field, the value and the range.
        """
        for name, kinds in _TYPES.items():
            value = getattr(self, name)
            wrong = not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)
            if name == "timesteps" and isinstance(value, tuple):
                wrong = any(isinstance(one, bool) or not isinstance(one, float | int) for one in value)
            if wrong and not (value is None and name in _OPTIONAL):
                kind = "a list of numbers" if name == "timesteps" else kinds[0].__name__
                raise TypeError(f"{name} is {value!r}, a {type(value).__name__}; it must be {kind}")
        if self.num_frames is not None:
            check_num_frames(self.num_frames)
        for name, side in (("height", self.height), ("width", self.width)):
            if side is not None:
                check_side(side, name=name)
        if self.num_inference_steps is not None and self.num_inference_steps < 1:
            raise ValueError(f"num_inference_steps is {self.num_inference_steps}; it must be at least 1")
        if self.timesteps is not None:
            check_timesteps(self.timesteps)
            if self.num_inference_steps not in (None, len(self.timesteps)):
                raise ValueError(
                    f"num_inference_steps is {self.num_inference_steps}, and timesteps has {len(self.timesteps)}; give "
                    "one of them"
                )
        if self.guidance_scale is not None and not math.isfinite(self.guidance_scale):
            raise ValueError(
                f"guidance_scale is {self.guidance_scale}; it must be finite (Wan uses 5, and 1 disables guidance)"
            )
        if self.sampler is not None:
            check_sampler(self.sampler)
        for name, value in (("shift", self.shift), ("scene_scale", self.scene_scale)):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} is {value}; it must be finite and positive")
        if not -(2**63) <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed}; it must fit in 64 bits")
        if self.fit not in ("crop", "stretch"):
            raise ValueError(f"fit is {self.fit!r}; choose crop or stretch")
        if self.easycache is not None:
            check_threshold(self.easycache)

    def sampling(self, defaults: Sampling) -> Sampling:
        """`defaults` with every value that is given here."""
        names = {field.name for field in fields(Sampling)}
        given = {k: v for k, v in asdict(self).items() if k in names and v is not None}
        if self.timesteps is not None:
            given["num_inference_steps"] = len(self.timesteps)
        elif self.num_inference_steps is not None:
            given["timesteps"] = None  # a number of steps takes the place of the model's list
        return replace(defaults, **given)

    def steps(self, default: int) -> int:
        """Number of denoising steps, `default` if they are not set."""
        return self.num_inference_steps or default if self.timesteps is None else len(self.timesteps)

    def updated(self, **changes: Any) -> "GenerationSettings":
        """These settings with some fields replaced. TypeError for an unknown field."""
        unknown = sorted(set(changes) - {field.name for field in fields(self)})
        if unknown:
            names = ", ".join(field.name for field in fields(self))
            raise TypeError(f"{', '.join(unknown)}: not a field of GenerationSettings; the fields are {names}")
        return replace(self, **_with_tuple(changes))

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "GenerationSettings":
        """Settings from a dictionary, also one of an earlier version. ValueError for an unknown or invalid field."""
        settings = cls(**_known(values, cls))
        settings.validate()
        return settings


_TYPES: dict[str, tuple[type, ...]] = {
    "num_frames": (int,),
    "height": (int,),
    "width": (int,),
    "num_inference_steps": (int,),
    "guidance_scale": (float, int),
    "negative_prompt": (str,),
    "sampler": (str,),
    "shift": (float, int),
    "timesteps": (tuple,),
    "seed": (int,),
    "scene_scale": (float, int),
    "fit": (str,),
    "easycache": (float, int),
    "cross_branch": (bool,),
}
"""Field of `GenerationSettings` -> its types, the one to name in errors first."""
_OPTIONAL = {field.name for field in fields(GenerationSettings) if field.default is None}


def current_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Stored settings under the current names."""
    return {_FORMER_NAMES.get(name, name): value for name, value in values.items()}


def _with_tuple(values: Mapping[str, Any]) -> dict[str, Any]:
    """Lists of timesteps, as JSON has them, become tuples of floats."""
    listed = values.get("timesteps")
    if not isinstance(listed, list | tuple):
        return dict(values)
    return {**values, "timesteps": tuple(float(one) if type(one) is int else one for one in listed)}


def _known(values: Mapping[str, Any], kind: type[Sampling] | type[GenerationSettings]) -> dict[str, Any]:
    named = current_names(values)
    unknown = sorted(set(named) - {field.name for field in fields(kind)})
    if unknown:
        raise ValueError(f"unknown settings {', '.join(unknown)}; another version of fantasy-world wrote them")
    return _with_tuple(named)
