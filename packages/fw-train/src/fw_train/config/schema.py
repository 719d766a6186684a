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

from fw_model.losses.config import WorldLossConfig

Stage = Literal["autoencoder", "base", "stage1", "stage2"]
STAGES: tuple[Stage, ...] = ("autoencoder", "base", "stage1", "stage2")
LAUNCH = ("launcher", "workers", "restarts", "go_on", "wandb")
"""Keys of how a run is started and watched; they are not part of its identity."""


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
    camera_adapter_lr: float = 1.0
    """Learning rate of the camera adapters as a share of `lr`. Large steps switch their ReLUs off for good."""
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
class LossConfig(WorldLossConfig):
    """L = L_flow + geometry * (L_depth + L_points + 3 L_camera); paper section 3.4, appendix A.3."""

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
    """Replace the camera path by zeros, where the backbone or stage 2 reads one."""
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
    a CPU that multiplies it natively (AVX512-BF16, AMX), else fp32."""
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

    unread: Annotated[tuple[tuple[str, Any], ...], Suppress] = ()
    """Keys that an older run stored and that its stage does not read, with their values; part of its identity."""

    def to_json(self) -> dict[str, Any]:
        """The tree as JSON values; `fw_train.config.load.from_json` reads it."""
        tree = json.loads(json.dumps(dataclasses.asdict(self), default=str))
        for key, value in tree.pop("unread"):
            *groups, name = key.split(".")
            node = tree
            for group in groups:
                node = node[group]
            node[name] = value
        return tree

    def digest(self) -> str:
        """Hash of everything that the weights depend on: not paths, cadence, or `steps` at a constant rate."""
        tree = self.to_json()
        for key in ("data", "out", "init", "model", "every", "sampling", "recipe", *LAUNCH):
            del tree[key]
        if self.optim.schedule == "constant":
            del tree["steps"]
        if self.lora.rank == 0:
            del tree["lora"]
        if self.optim.camera_adapter_lr == 1.0:
            del tree["optim"]["camera_adapter_lr"]
        if self.compute.frozen_dtype == "fp32":
            del tree["compute"]["frozen_dtype"]
        if not self.clip.mask_moving:
            del tree["clip"]["mask_moving"]
        if self.clip.pool == 0:
            del tree["clip"]["pool"], tree["clip"]["reuse"]
        del tree["clip"]["cache_gb"], tree["compute"]["threads"]
        del tree["compute"]["activation_checkpointing"], tree["compute"]["shard"]
        tree["loss"] = _loss_identity(tree["loss"])
        return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def leaves(node: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value of every leaf of a configuration, without `unread`."""
    rows: dict[str, Any] = {}
    for item in dataclasses.fields(node):
        value = getattr(node, item.name)
        if dataclasses.is_dataclass(value):
            rows |= leaves(value, f"{prefix}{item.name}.")
        elif item.name != "unread":
            rows[prefix + item.name] = value
    return rows


def _loss_identity(loss: dict[str, Any]) -> dict[str, Any]:
    """The losses' part of a run's identity: the weight of each, and of its terms those that are not the defaults."""
    usual = dataclasses.asdict(WorldLossConfig())
    short: dict[str, Any] = {"geometry": loss["geometry"]}
    if loss["dense_frames"]:
        short["dense_frames"] = loss["dense_frames"]
    for name in ("depth", "points", "camera"):
        short[name] = loss[name]["weight"]
        changed = {k: v for k, v in loss[name].items() if k != "weight" and v != usual[name][k]}
        if changed:
            short[f"{name}_terms"] = changed
    return short
