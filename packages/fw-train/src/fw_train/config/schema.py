"""What a training run is: one frozen dataclass tree, filled by recipe, TOML file and command line, in that order.

Precedence: command line > file > recipe > the defaults below. The resolved tree is saved with the run as config.json,
and is all that `fw-train resume` needs. This module imports no torch, so `--help` stays fast.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Suppress

Stage = Literal["autoencoder", "base", "stage1", "stage2"]
STAGES: tuple[Stage, ...] = ("autoencoder", "base", "stage1", "stage2")
LAUNCH = ("launcher", "workers", "restarts", "go_on", "wandb")
"""Keys that say how a run is started and watched, not what it is."""


class ConfigError(ValueError):
    """A configuration that cannot be used; the message says which key, why, and what to write instead."""


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """Which part of every clip is a training sample."""

    frames: int = 17
    """Frames per sample, 4n + 1."""
    height: int = 64
    """Height of a sample in pixels, a multiple of 16; frames are resized to cover it, then centre-cropped."""
    width: int = 96
    """Width of a sample in pixels, a multiple of 16."""
    random_start: bool = True
    """Longer clips: take the window at a start drawn from (seed, epoch, clip) rather than always at frame 0."""
    start_step: int = 4
    """Random starts are multiples of this many frames; larger keeps more of the prepared windows in the cache."""
    held_out: float = 0.1
    """Share of the clips (by a hash of their id; at least one) kept for validation and never trained on."""
    validate_on: int = 16
    """At most so many held-out clips are measured each time."""
    min_confidence: float = 0.1
    """Depth below this annotation confidence (0 to 1) is masked out of the geometry losses."""
    mask_moving: bool = False
    """Also mask out what moves by itself, and the sky; leaves out clips that have no such masks."""
    scale_by_first_frame: bool = False
    """Unit of length of a scene: mean distance of the points of all frames (the paper), or of the first frame alone."""
    cache_gb: float = 2.0
    """Host memory for prepared samples (latents and labels); 0 prepares every sample anew."""
    pool: int = 0
    """Draw from a window of this many clips that slides along the data, instead of every clip once an epoch: for data
    that is made as it is read (`rooms`), and for decoding that costs more than a step. 0: no window."""
    reuse: int = 8
    """With `pool`: how often a clip is drawn on average before the window leaves it."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW and what surrounds it."""

    lr: float = 1e-5
    """Peak learning rate (the paper's value)."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's moment decays."""
    weight_decay: float = 0.01
    """Decoupled weight decay of matrices; vectors (biases, norms, gates, tokens) are not decayed."""
    clip_norm: float = 1.0
    """Gradients are scaled down to this global norm; 0 switches clipping off."""
    warmup: int = 0
    """Steps over which the learning rate rises linearly from 0."""
    schedule: Literal["constant", "cosine"] = "constant"
    """After the warm-up: constant, or a cosine to a tenth of the peak at the last step."""
    ema: float = 0.0
    """Decay of the running average of the trained weights, which is then what gets exported; 0 keeps none. It rises to
    this value over the first steps, so that the weights of the start are forgotten."""


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Stage 2: adapt the frozen video blocks by trained matrices of low rank; the export adds them into the weights."""

    rank: int = 0
    """Rank of the update of every adapted layer; 0 adapts none."""
    alpha: float = 16.0
    """An update counts alpha / rank times."""
    targets: tuple[Literal["self_attn", "cross_attn", "ffn"], ...] = ("self_attn", "cross_attn", "ffn")
    """Parts of a video block whose linear layers are adapted."""


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """L = L_flow + geometry * (depth L_depth + points L_pmap + camera L_camera); paper section 3.4, appendix A.3."""

    geometry: float = 1.0
    """Lambda, the weight of the geometry losses beside the flow loss in stage 2 (the paper does not state it)."""
    depth: float = 1.0
    """Weight of the depth loss inside L_geo."""
    points: float = 1.0
    """Weight of the point-map loss inside L_geo."""
    camera: float = 3.0
    """Weight of the camera loss inside L_geo."""
    dense_frames: int = 0
    """Depth and points are predicted and compared on this many random output frames per step; 0: on all frames. The
    dense heads take most of a small model's step."""


@dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    """Which noise levels are trained on; see fw_model.sampling.flow.TimestepSampler."""

    scheme: Literal["grid", "uniform", "logit_normal", "mode"] = "grid"
    """grid: uniform over Wan's 1000-step table; the others draw a level and then apply the shift."""
    shift: float = 5.0
    """How far levels are bent towards high noise (Wan: 5; small images want less)."""
    weighting: Literal["none", "bell"] = "none"
    """Weight of the flow loss over noise levels: none, or Wan's bell around the middle of the schedule."""
    validation: tuple[float, ...] = (0.2, 0.5, 0.8)
    """Noise levels (sigma, 0 clean to 1 noise) at which held-out clips are measured, the same every time."""


@dataclass(frozen=True, kw_only=True)
class DropoutConfig:
    """Probabilities of training without one of the inputs; drawn from (seed, step, sample)."""

    text: float = 0.1
    """Replace the caption by the empty one (what classifier-free guidance needs)."""
    image: float = 0.0
    """Replace the first-frame condition by zeros."""
    camera: float = 0.0
    """Stage 2: replace the camera path by zeros."""
    bicross: float = 0.0
    """Stage 2: skip the cross-attention between the branches for a whole step."""


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """Defaults of generation, for samples during a run and for its export; they change nothing in training."""

    steps: int = 50
    """Denoising steps."""
    guidance: float = 5.0
    """Guidance on the text; 1 is none, and twice as fast."""
    clips: int = 2
    """Held-out clips that are generated at each of `every.sample`'s steps, always the same ones."""


@dataclass(frozen=True, kw_only=True)
class Cadence:
    """How often things are written. Changing these never changes the weights."""

    log: int = 10
    """Steps between two lines of the log."""
    validate: int = 100
    """Steps between two validations (also at the first and the last step)."""
    checkpoint: int = 100
    """Steps between two checkpoints (also at the last step and on SIGTERM or SIGINT)."""
    keep: int = 2
    """Checkpoints kept; older ones are deleted once a newer one is whole."""
    sample: int = 0
    """Steps between pictures of worlds generated for held-out clips (also at the last step); 0 draws none."""


@dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """Where and in what precision."""

    device: str = "auto"
    """cpu, cuda, cuda:N, or auto (a GPU if there is one)."""
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    """bf16 runs the network under autocast; trained weights, optimizer and losses stay fp32. auto: bf16 on a GPU and on
    a CPU that multiplies it natively (AVX512-BF16, AMX), else fp32, which is eight times faster there."""
    frozen_dtype: Literal["fp32", "bf16"] = "fp32"
    """bf16 holds the matrices that do not train in half the memory; needs precision bf16. Exports keep them exact."""
    shard: Literal["none", "full"] = "none"
    """Several processes: none keeps the whole network in each; full cuts weights, gradients and optimizer over them."""
    activation_checkpointing: Literal["none", "selective", "full"] = "none"
    """full recomputes every transformer block in the backward pass: least memory, about a third more time; selective
    keeps the results of attention and recomputes the rest."""
    threads: int = 0
    """CPU threads of torch; 0 leaves torch's choice."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run."""

    stage: Annotated[Stage, Suppress] = "stage1"
    recipe: Annotated[str, Suppress] = ""
    model: str = "tiny"
    """Preset of fw_model.config, or a JSON file of a WorldConfig; with `init`, what that must be."""
    data: Path | None = None
    """Dataset folder written by `fw-data annotate`, or rooms rendered while training: `rooms`, or the seeds
    `rooms:FIRST-LAST`."""
    out: Path | None = None
    """Run folder to write; must not hold a run already."""
    init: Path | None = None
    """Where weights come from: an export folder or an earlier run's folder. `base` needs none, but may take that of
    `autoencoder`; without it the latents are those of a fixed transform."""
    steps: int = 1000
    """Optimizer steps."""
    batch: int = 4
    """Samples per optimizer step, over all processes and micro-batches."""
    accumulate: int = 1
    """Micro-batches a step is cut into (less memory, same gradient)."""
    seed: int = 0
    """Everything random is a function of this, the step and the sample."""
    unfreeze_geometry: bool = False
    """Stage 2: train the geometry branch too."""
    launcher: Literal["local", "torchrun", "ray"] = "local"
    """What starts the processes: local is this one (or one of those that torchrun started)."""
    workers: int = 1
    """Processes that torchrun (on this machine) or ray (on its cluster) start, one for each GPU."""
    restarts: int = 3
    """How often torchrun or ray may start the processes again after one was lost; they go on from the checkpoint."""
    go_on: bool = False
    """If `out` holds this run already, resume it: the same command starts, restarts and repeats a run."""
    wandb: str = ""
    """Weights & Biases project that the log goes to as well (needs the extra `wandb`); empty: none."""
    clip: ClipConfig = field(default_factory=ClipConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    dropout: DropoutConfig = field(default_factory=DropoutConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    every: Cadence = field(default_factory=Cadence)
    compute: ComputeConfig = field(default_factory=ComputeConfig)

    def to_json(self) -> dict[str, Any]:
        """The tree as JSON values; `fw_train.config.load.from_mapping` reads it back."""
        return json.loads(json.dumps(dataclasses.asdict(self), default=str))

    def digest(self) -> str:
        """Hash of everything that the weights depend on: not paths, cadence, or `steps` at a constant rate."""
        tree = self.to_json()
        for key in ("data", "out", "init", "model", "every", "sampling", "recipe", *LAUNCH):
            del tree[key]
        if self.optim.schedule == "constant":
            del tree["steps"]
        if self.lora.rank == 0:
            del tree["lora"]
        if self.compute.frozen_dtype == "fp32":
            del tree["compute"]["frozen_dtype"]
        if not self.clip.mask_moving:
            del tree["clip"]["mask_moving"]
        if self.loss.dense_frames == 0:
            del tree["loss"]["dense_frames"]
        if self.clip.pool == 0:
            del tree["clip"]["pool"], tree["clip"]["reuse"]
        del tree["clip"]["cache_gb"], tree["compute"]["threads"]
        del tree["compute"]["activation_checkpointing"], tree["compute"]["shard"]
        return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()

    def check(self) -> "TrainConfig":
        """Raise ConfigError on values that no run could use; returns self."""
        if self.clip.frames < 5 or self.clip.frames % 4 != 1:
            near = max(5, round((self.clip.frames - 1) / 4) * 4 + 1)
            raise ConfigError(f"clip.frames = {self.clip.frames} is not 4n + 1 with n >= 1; {near} is the nearest")
        for key in ("height", "width"):
            pixels = getattr(self.clip, key)
            if pixels < 16 or pixels % 16:
                near = max(16, round(pixels / 16) * 16)
                raise ConfigError(f"clip.{key} = {pixels} is not a positive multiple of 16; {near} is the nearest")
        if self.batch < 1 or self.accumulate < 1 or self.batch % self.accumulate:
            raise ConfigError(f"batch = {self.batch} cannot be cut into accumulate = {self.accumulate} equal parts")
        for key, value in _leaves(self):
            if key.startswith("dropout.") and not 0 <= value <= 1:
                raise ConfigError(f"{key} = {value} is not a probability (0 to 1)")
            if key.startswith("every.") and value < (key != "every.sample"):
                raise ConfigError(f"{key} = {value} must be at least {int(key != 'every.sample')}")
            if key.startswith("loss.") and isinstance(value, float) and value < 0:
                raise ConfigError(f"{key} = {value} must not be negative")
        rules = {
            "steps": self.steps >= 1,
            "clip.start_step": self.clip.start_step >= 1,
            "clip.validate_on": self.clip.validate_on >= 1,
            "clip.pool": self.clip.pool == 0 or self.clip.pool >= self.batch,
            "clip.reuse": self.clip.reuse >= 1,
            "clip.held_out": 0 < self.clip.held_out < 1,
            "loss.dense_frames": self.loss.dense_frames >= 0,
            "optim.lr": self.optim.lr > 0,
            "optim.ema": 0 <= self.optim.ema < 1,
            "optim.clip_norm": self.optim.clip_norm >= 0,
            "optim.warmup": self.optim.warmup >= 0,
            "lora.rank": self.lora.rank >= 0,
            "lora.alpha": self.lora.alpha > 0,
            "lora.targets": len(self.lora.targets) > 0,
            "sampling.steps": self.sampling.steps >= 1,
            "sampling.clips": self.sampling.clips >= 1,
            "workers": self.workers >= 1,
            "restarts": self.restarts >= 0,
            "noise.shift": self.noise.shift > 0,
            "noise.validation": all(0 < sigma <= 1 for sigma in self.noise.validation) and self.noise.validation,
        }
        for key, holds in rules.items():
            if not holds:
                raise ConfigError(f"{key} = {dict(_leaves(self))[key]} is out of range")
        if self.compute.frozen_dtype == "bf16" and self.compute.precision != "bf16":
            raise ConfigError(
                "compute.frozen_dtype = bf16 needs compute.precision = bf16, which runs the network in it"
            )
        if self.workers > 1 and self.launcher == "local":
            raise ConfigError(f"workers = {self.workers} needs a launcher that starts them: torchrun or ray")
        if self.unfreeze_geometry and self.stage != "stage2":
            raise ConfigError(f"unfreeze_geometry is for stage2 only; {self.stage} decides by itself what trains")
        if self.lora.rank and self.stage != "stage2":
            raise ConfigError(f"lora.rank = {self.lora.rank} is for stage2 only: {self.stage} adapts no video block")
        return self


def _leaves(node: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted key and value of every leaf of the tree."""
    rows: list[tuple[str, Any]] = []
    for item in dataclasses.fields(node):
        value = getattr(node, item.name)
        if dataclasses.is_dataclass(value):
            rows += _leaves(value, f"{prefix}{item.name}.")
        else:
            rows.append((prefix + item.name, value))
    return rows
