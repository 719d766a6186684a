"""The configuration of a training run: one tree of frozen dataclasses, filled by recipe, TOML file and command line.

Precedence: command line > file > recipe > the defaults below. The resolved tree is saved with the run as config.json,
which `fw-train resume` reads. This module imports no torch, so `--help` stays fast.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Suppress, arg

from fw_model.losses.config import WorldLossConfig

Stage = Literal["autoencoder", "base", "stage1", "stage2", "distill"]
STAGES: tuple[Stage, ...] = ("autoencoder", "base", "stage1", "stage2", "distill")
JOINT: tuple[Stage, ...] = ("stage2", "distill")
"""Stages that run the whole model: both branches, their cross-attention and the camera adapters."""
LAUNCH = ("launcher", "workers", "restarts", "go_on", "wandb")
"""Keys of launching and tracking; they are not part of a run's identity."""


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the key, the reason and a fix."""


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """Training samples: windows of clips."""

    frames: int = 17
    """Frames per sample, 4n + 1."""
    height: int = 64
    """Height of a sample in pixels, a multiple of 16; frames are resized to cover it, then center-cropped."""
    width: int = 96
    """Width of a sample in pixels, a multiple of 16."""
    aspect_buckets: bool = False
    """Also train portrait (height x width swapped) and square samples of the same area; each clip goes to the bucket of
    the nearest aspect ratio. Without it every clip is cropped to width x height."""
    frame_buckets: tuple[int, ...] = ()
    """Shorter lengths, 4n + 1 each: a clip with fewer than `frames` frames goes to the longest of these that it
    fills."""
    max_crop: float = 0.35
    """With `aspect_buckets`: leave out clips of which more than this share would be cut away."""
    fps: float = 0.0
    """Frame rate to resample clips to, by taking the nearest frames; slower clips are left out. 0 takes every frame."""
    random_start: bool = True
    """Longer clips: start the window at a frame drawn from (seed, epoch, clip) rather than at frame 0."""
    start_step: int = 4
    """Random starts are multiples of this many frames; larger values keep more prepared windows in the cache."""
    held_out: float = 0.1
    """Share of the clips (by a hash of their ids; at least one) that are used for validation only."""
    validate_on: int = 16
    """Maximum number of held-out clips per validation."""
    min_confidence: float = 0.1
    """Mask depth below this annotation confidence (0 to 1) out of the geometry losses."""
    mask_moving: bool = False
    """Also mask out moving objects and the sky; leaves out clips without such masks."""
    scale_by_first_frame: bool = False
    """Unit of length of a scene: mean distance of the points of all frames (the paper), or of the first frame only."""
    cache_gb: float = 2.0
    """Host memory for prepared samples (latents and labels); 0 prepares every sample again."""
    pool: int = 0
    """Draw from a window of this many clips that slides along the data, instead of every clip once per epoch: for data
    that is rendered while training (`rooms`), and where decoding costs more than a step. 0: no window."""
    reuse: int = 8
    """With `pool`: mean number of draws of a clip before the window leaves it."""
    num_workers: int = 0
    """Processes that decode clips ahead of the training process; 0 decodes in it."""
    encode_first: bool = False
    """Run the frozen encoders over missing captions and windows before training, as `fw-train encode` does, and free
    them. Otherwise missing ones are encoded while training."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW, gradient clipping, learning-rate schedule and weight averaging."""

    lr: float = 1e-5
    """Peak learning rate (the paper's value)."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's moment decays."""
    weight_decay: float = 0.01
    """Decoupled weight decay of matrices; vectors (biases, norms, gates, tokens) are not decayed."""
    clip_norm: float = 1.0
    """Maximum global norm of the gradients; 0 disables clipping."""
    warmup: int = 0
    """Steps over which the learning rate rises linearly from 0."""
    schedule: Literal["constant", "cosine"] = "constant"
    """After the warm-up: constant, or a cosine to a tenth of the peak at the last step."""
    camera_adapter_lr: float = 1.0
    """Learning rate of the camera adapters as a share of `lr`. Large steps switch their ReLUs off for good."""
    ema: float = 0.0
    """Decay of the exponential moving average of the trained weights, which is then exported; 0 keeps none. It rises to
    this value over the first steps, so that the average forgets the initial weights."""


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Stage 2 and distill: low-rank adapters on the frozen video blocks; the export merges them into the weights."""

    rank: int = 0
    """Rank of the update of every adapted layer; 0 adapts none."""
    alpha: float = 16.0
    """Updates are scaled by alpha / rank."""
    targets: tuple[Literal["self_attn", "cross_attn", "ffn"], ...] = ("self_attn", "cross_attn", "ffn")
    """Parts of a video block whose linear layers are adapted."""


@dataclass(frozen=True, kw_only=True)
class LossConfig(WorldLossConfig):
    """L = L_flow + geometry * (L_depth + L_points + 3 L_camera); paper section 3.4, appendix A.3."""

    dense_frames: int = 0
    """Predict and compare depth and points on this many random output frames per step; 0: on all frames. The dense
    heads take most of a small model's step."""


@dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    """Distribution of the noise levels; see fw_model.sampling.flow.TimestepSampler."""

    scheme: Literal["grid", "uniform", "logit_normal", "mode"] = "grid"
    """grid: uniform over Wan's 1000-step table; the others draw a level and then apply the shift."""
    shift: float = 5.0
    """Shift of the levels towards high noise (Wan: 5; small images need less)."""
    weighting: Literal["none", "bell"] = "none"
    """Weight of the flow loss over noise levels: none, or Wan's bell around the middle of the schedule."""
    validation: tuple[float, ...] = (0.2, 0.5, 0.8)
    """Noise levels (sigma, 0 clean to 1 noise) of the validation; the same at every step."""


@dataclass(frozen=True, kw_only=True)
class DropoutConfig:
    """Probabilities of training without one of the inputs; drawn from (seed, step, sample)."""

    text: float = 0.1
    """Replace the caption by the empty one, which classifier-free guidance needs."""
    image: float = 0.0
    """Replace the first-frame condition by zeros."""
    camera: float = 0.0
    """Replace the camera path by zeros, where the backbone or stage 2 reads one."""
    cross_branch: float = 0.0
    """Stage 2: skip the cross-attention between the branches for a whole step."""


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """Distillation of the model to a few denoising steps; see fw_train.tasks.distillation."""

    steps: int = 4
    """Denoising steps of the result. They divide the noise levels, bent by noise.shift, into as many windows."""
    teacher_steps: int = 4
    """Euler steps of the teacher, the model without its adapters, in each window."""
    guidance_scale: float = 1.0
    """Classifier-free guidance of the teacher on the text. The result contains it and is generated without guidance."""


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """Default generation settings of previews and of the export; they do not change the training."""

    num_inference_steps: int = 50
    """Denoising steps."""
    guidance_scale: float = 5.0
    """Classifier-free guidance on the text; 1 disables it and halves the time."""
    clips: int = 2
    """Held-out clips that are generated at each of `every.sample`'s steps, always the same ones."""


@dataclass(frozen=True, kw_only=True)
class Cadence:
    """Steps between log lines, validations, checkpoints and previews. Changing them never changes the weights."""

    log: int = 10
    """Steps between two lines of the log."""
    validate: int = 100
    """Steps between two validations (also at the first and the last step)."""
    checkpoint: int = 100
    """Steps between two checkpoints (also at the last step and on SIGTERM or SIGINT)."""
    keep: int = 2
    """Number of checkpoints to keep; older ones are deleted once a newer one is complete."""
    sample: int = 0
    """Steps between previews, images of worlds generated for held-out clips (also at the last step); 0: none."""


@dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """Device, precision and memory savings."""

    device: str = "auto"
    """auto (a GPU if available), cpu, cuda, cuda:N or mps."""
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    """bf16 runs the network under autocast; trained weights, optimizer and losses stay fp32. auto: bf16 on a GPU and on
    a CPU with native bf16 products (AVX512-BF16, AMX), else fp32."""
    frozen_dtype: Literal["fp32", "bf16"] = "fp32"
    """bf16 stores the frozen matrices in half the memory; needs precision bf16. Exports keep them exact."""
    shard: Literal["none", "full", "hybrid"] = "none"
    """Several processes: none keeps the whole network in each; full shards weights, gradients and optimizer over all
    (FSDP2), hybrid over those of each node (HSDP)."""
    sequence: int = 1
    """Processes that divide the tokens of each sample (Ulysses): less activation memory and time per sample."""
    activation_checkpointing: Literal["none", "selective", "full"] = "none"
    """full recomputes every transformer block in the backward pass: least memory, about a third more time; selective
    keeps the results of attention and recomputes the rest."""
    offload_optimizer: bool = False
    """Keep the moments of AdamW in host memory (8 bytes per trained parameter), and move them to the device in pieces
    for each update. The results are the same."""
    offload_blocks: int = 0
    """Keep the frozen weights of the first N transformer blocks in host memory, and copy each block to the device for
    the forward pass and for its recomputation (musubi-tuner's `blocks_to_swap`; here everything that is kept in host
    memory is called `offload`). At most two of them are on the device. Stage 1 runs the preconditioning blocks,
    later stages all. The results are the same."""
    offload_activations: bool = False
    """Keep the block inputs that activation checkpointing saves in host memory until the backward pass. The results are
    the same."""
    threads: int = 0
    """CPU threads of torch; 0 keeps torch's default."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run."""

    stage: Annotated[Stage, Suppress] = "stage1"
    recipe: Annotated[str, Suppress] = ""
    model: str = "tiny"
    """Preset of fw_model.config, or a JSON file of a WorldConfig; must match `--init`."""
    data: Annotated[str | Path | None, arg(metavar="DATASET")] = None
    """Dataset written by `fw-data annotate`, a folder or an address (s3://...), or rooms rendered while training:
    `rooms`, or the seeds `rooms:FIRST-LAST`."""
    out: Path | None = None
    """Run folder to write; must not contain a run."""
    init: Path | None = None
    """Initial weights: an export, or the folder of a run, of the stage before, or `small-world`, the included weights.
    `base` needs none: without the result of `autoencoder` its latents are those of a fixed transform."""
    steps: int = 1000
    """Optimizer steps."""
    batch: int = 4
    """Samples per optimizer step, over all processes and micro-batches."""
    accumulate: int = 1
    """Micro-batches per step (less memory, same gradient)."""
    seed: int = 0
    """Everything random is a function of this seed, the step and the sample."""
    skip: tuple[str, ...] = ()
    """Ids of training clips to leave out, such as one that diverges; `resume` may add ids. Others take their places."""
    unfreeze_geometry: bool = False
    """Train the geometry branch too."""
    unfreeze_video: bool = False
    """Train all video weights too. With `unfreeze_geometry`, `init` may then be the result of `autoencoder`:
    both branches start from random weights."""
    launcher: Literal["local", "torchrun", "ray"] = "local"
    """How processes are started: local is this process (or one of those that torchrun started)."""
    workers: int = 1
    """Number of processes that torchrun starts on this machine, or ray on its cluster; one per GPU."""
    restarts: int = 3
    """Maximum number of restarts by torchrun or ray after a process was lost; they resume from the checkpoint."""
    go_on: bool = False
    """Resume the run in --out if there is one, otherwise start it; the same command always applies."""
    wandb: str = ""
    """Weights & Biases project to log to as well (needs the extra `wandb`); empty: none."""
    clip: ClipConfig = field(default_factory=ClipConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    dropout: DropoutConfig = field(default_factory=DropoutConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
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

    @property
    def unfrozen(self) -> frozenset[str]:
        """Parameter groups that are trained beside those of the stage."""
        groups = {"geometry": self.unfreeze_geometry, "video": self.unfreeze_video}
        return frozenset(group for group, trained in groups.items() if trained)

    def digest(self) -> str:
        """Hash of everything that the weights depend on: not paths, cadence, or `steps` at a constant rate.

        Keys that were added or renamed later are hashed as earlier versions did, so that their runs resume. `skip` may
        grow during a run and is compared separately.
        """
        tree = self.to_json()
        for key in ("data", "out", "init", "model", "every", "sampling", "recipe", "skip", *LAUNCH):
            del tree[key]
        if self.optim.schedule == "constant":
            del tree["steps"]
        if self.lora.rank == 0:
            del tree["lora"]
        if self.stage != "distill":
            del tree["distill"]
        if not self.unfreeze_video:
            del tree["unfreeze_video"]
        if self.optim.camera_adapter_lr == 1.0:
            _drop(tree["optim"], "camera_adapter_lr")
        _drop(tree["compute"], "activation_checkpointing", "sequence", "shard", "threads")
        _drop(tree["compute"], "offload_optimizer", "offload_blocks", "offload_activations")
        if self.compute.frozen_dtype == "fp32":
            _drop(tree["compute"], "frozen_dtype")
        _drop(tree["clip"], "cache_gb", "num_workers", "encode_first")
        usual = ClipConfig()
        for key in ("mask_moving", "aspect_buckets", "frame_buckets", "fps"):
            if getattr(self.clip, key) == getattr(usual, key):
                _drop(tree["clip"], key)
        if not self.clip.aspect_buckets:
            _drop(tree["clip"], "max_crop")
        if self.clip.pool == 0:
            _drop(tree["clip"], "pool", "reuse")
        tree["dropout"]["bicross"] = tree["dropout"].pop("cross_branch")
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


def _drop(tree: dict[str, Any], *keys: str) -> None:
    for key in keys:
        del tree[key]


def _loss_identity(loss: dict[str, Any]) -> dict[str, Any]:
    """The losses' part of a run's identity: the weight of each loss, and the settings that are not the default."""
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
