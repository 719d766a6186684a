"""Options of the evaluation commands. This module does not import torch, so `--help` is fast."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, UseAppendAction, arg

Subset = Literal["held-out", "all"]
Recover = Literal["model", "sfm"]
Style = Literal["photorealistic", "stylized", "all"]


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Measure a model on the clips of a dataset, with generated or existing worlds."""

    checkpoint: Annotated[Positional[Path | None], arg(metavar="CHECKPOINT")] = None
    """A run of fw-train or its export; omit it to measure existing --worlds."""
    data: Annotated[str | Path, arg(metavar="DATASET")]
    """Annotated dataset with the ground-truth clips, a folder or an address (s3://...)."""
    out: Path
    """Folder for worlds, evaluation.json and index.html; a stopped run resumes here."""
    worlds: Path | None = None
    """Measure existing worlds: a folder with one subfolder per clip, named by the clip id, as written by `fw generate`.
    Their frames are compared with the first frames of the clip."""
    split: Subset = "held-out"
    """Clips to measure: those held out in training, or all usable ones."""
    clips: int | None = None
    """Maximum number of clips, selected by a hash of their ids; a larger number keeps the clips of a smaller one and
    adds more."""
    held_out: float | None = None
    """Share of held-out clips, for a checkpoint without the config.json of its run (default: that of training)."""
    frames: int | None = None
    """Frames per clip, 4n + 1 (default: from the checkpoint)."""
    size: str | None = None
    """WIDTHxHEIGHT in pixels, for example 96x64 (default: from the checkpoint)."""
    steps: int | None = None
    """Denoising steps (default: from the checkpoint)."""
    guidance: float | None = None
    """Text guidance scale; 1 disables guidance (default: from the checkpoint)."""
    seed: int = 0
    """Noise seed; the noise of a clip depends on this seed and the clip id."""
    min_confidence: float = 0.3
    """Minimum confidence (0 to 1) of annotated depth; depth below it is ignored."""
    recover: Recover = "model"
    """Cameras to compare with the requested path. model: those that the model predicts. sfm: also those recovered from
    the generated video by structure from motion."""
    lpips_weights: Path | None = None
    """A .safetensors file of the LPIPS network (AlexNet, version 0.1), to measure LPIPS too."""
    st_lpips_weights: Path | None = None
    """The wheel stlpips-pytorch 0.0.2 or its weight file, to measure ST-LPIPS too (not comparable with LPIPS)."""
    fvd_network: Path | None = None
    """TorchScript file of the I3D network (i3d_torchscript.pt), to measure FVD, one number for all clips together. The
    file is executed as a program; use only files from a trusted source."""
    against: tuple[Path, ...] = ()
    """Folders of earlier evaluations to compare with at the end."""
    show: int = 2
    """Number of best and of worst clips on the page."""
    device: str = "auto"
    """auto (the GPU if available), cpu, cuda, cuda:1, mps."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Precision of the transformer (default: from the checkpoint)."""


@dataclass(frozen=True, kw_only=True)
class ComparisonOptions:
    """Compare evaluations of the same clips with the first one, with paired bootstrap intervals."""

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="OUT")]
    """Folders written by `fw-train evaluate`; the first is the baseline."""
    out: Path | None = None
    """Also write comparison.json and comparison.html to this folder."""


@dataclass(frozen=True, kw_only=True)
class EvidenceOptions:
    """Measure weights or ablations on a dataset with exact ground truth (see docs/benchmarks/evidence.md)."""

    checkpoint: Path | None = None
    """A run of fw-train, its export, or small-world for the weights included in fw-model."""
    base: Path | None = None
    """The video model before the joint training, as a baseline: a run of `fw-train base`, or the checkpoint itself if
    its video blocks have no LoRA. It generates without camera adapters and without the geometry branch."""
    arm: UseAppendAction[tuple[str, ...]] = ()
    """An ablation as NAME=EXPORT, repeatable; repeat NAME for trainings with other seeds. The first arm is the
    baseline."""
    data: Annotated[str | Path, arg(metavar="DATASET")]
    """Clips with exact truth that were not trained on: an annotated dataset, `rooms` for held-out rooms rendered from
    seeds, or `rooms:FIRST-LAST` for some of them; seeds from 2,000,000,000 have kinds of path that training never
    shows."""
    out: Path
    """Folder for clips.jsonl (one line per clip and pass; a stopped run resumes here), evidence.json, evidence.md,
    strip.png and steps.png, and the generated worlds."""
    clips: int = 200
    """Number of clips: the first rooms, or the first usable clips in the order of their sources."""
    takes: int = 1
    """Number of consecutive clips of one world (`fw-data toy --takes`); intervals are computed over worlds."""
    seeds: tuple[int, ...] = (0,)
    """Noise seeds; each clip is generated once per seed, and the scores are averaged."""
    steps: int = 15
    """Denoising steps."""
    few_steps: tuple[int, ...] = (1, 2, 4, 8, 16, 30)
    """Numbers of denoising steps to compare."""
    few_steps_clips: int = 40
    """Number of clips in this comparison; 0 omits it."""
    guidance: float = 1.0
    """Text guidance scale; 1 disables guidance and halves the time."""
    strip: int = 12
    """Number of clips in strip.png."""
    splats: int = 0
    """Number of clips to fit with 3D Gaussians, with frames held out (minutes of a core each); OUT/splats holds them as
    PLY files for 3DGS viewers."""
    splat_steps: int = 300
    """Optimizer steps of each fit."""
    min_confidence: float = 0.3
    """Minimum confidence (0 to 1) of annotated depth; depth below it is ignored."""
    device: str = "auto"
    """auto (the GPU if available), cpu, cuda, cuda:1, mps."""


@dataclass(frozen=True, kw_only=True)
class WorldScoreOptions:
    """Generate the static subset of WorldScore in the layout of its evaluation, or check it."""

    dataset: Annotated[Positional[Path], arg(metavar="WORLDSCORE_DATASET")]
    """Dataset folder of the benchmark, with static/static.json and its images."""
    out: Path
    """Output root (runs_root of the benchmark) for worldscore_output/; a stopped run resumes here."""
    checkpoint: Path | None = None
    """A run of fw-train or its export; not needed with --check."""
    check: bool = False
    """Only check whether OUT is complete; exit code 1 if it is not."""
    name: str = "fantasyworld"
    """Model name in the benchmark's configuration file."""
    style: Style = "photorealistic"
    """Style of the images; the tables of the paper omit stylized images."""
    limit: int | None = None
    """Maximum number of images, from the start of the list."""
    frames: int | None = None
    """Frames per camera movement, 4n + 1 (default: from the checkpoint)."""
    size: str | None = None
    """WIDTHxHEIGHT in pixels, for example 832x480 (default: from the checkpoint)."""
    steps: int | None = None
    """Denoising steps (default: from the checkpoint)."""
    guidance: float | None = None
    """Text guidance scale; 1 disables guidance (default: from the checkpoint)."""
    seed: int = 0
    """Noise seed; the noise of a movement depends on this seed, the image and the movement."""
    focal_px: float | None = None
    """Focal length in pixels of the output (default: 500/512 of the shorter side, since the benchmark assumes 500 at
    512x512 in its camera and 3D metrics)."""
    unit: float = 1.0
    """Length of one unit of the benchmark's paths in mean scene distances; its camera score is invariant to it."""
    device: str = "auto"
    """auto (the GPU if available), cpu, cuda, cuda:1, mps."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Precision of the transformer (default: from the checkpoint)."""
