"""What the evaluation commands can be told. This module imports no torch, so `--help` stays fast."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, UseAppendAction, arg

Subset = Literal["held-out", "all"]
Recover = Literal["model", "sfm"]
Style = Literal["photorealistic", "stylized", "all"]


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Measure a model on the clips of a dataset: worlds are generated first, or taken from a folder."""

    checkpoint: Annotated[Positional[Path | None], arg(metavar="CHECKPOINT")] = None
    """A run of fw-train or its export. Left out, --worlds names worlds that exist already."""
    data: Path
    """The annotated dataset whose clips are the truth."""
    out: Path
    """Folder for worlds, evaluation.json and index.html; a second run goes on where the first was stopped."""
    worlds: Path | None = None
    """Measure existing worlds: a folder with one folder per clip, named by the clip's id, each as `fw generate` writes
    it. Their frames are compared with the clip's first ones."""
    split: Subset = "held-out"
    """Which clips: those the training run held out, or every usable one."""
    clips: int | None = None
    """At most so many clips, chosen by a hash of their ids; a larger number keeps the ones before."""
    held_out: float | None = None
    """Share of the clips held out, for a checkpoint without its run's config.json beside it (training's default)."""
    frames: int | None = None
    """Frames per clip, 4n + 1. Left out, the checkpoint's own clip length."""
    size: str | None = None
    """Height x width in pixels, for example 64x96. Left out, the checkpoint's own size."""
    steps: int | None = None
    """Denoising steps. Left out, the checkpoint's default."""
    guidance: float | None = None
    """Guidance on the text; 1 is none. Left out, the checkpoint's default."""
    seed: int = 0
    """Of the noise; every clip gets its own noise from this and its id."""
    min_confidence: float = 0.3
    """Annotated depth below this confidence (0 to 1) is not used as truth."""
    recover: Recover = "model"
    """Where the recovered path comes from: the model's own cameras; `sfm` adds cameras found in the generated video."""
    lpips_weights: Path | None = None
    """Safetensors of the LPIPS network (AlexNet, version 0.1), which adds LPIPS to the measures."""
    fvd_network: Path | None = None
    """TorchScript file of the I3D network (i3d_torchscript.pt), which adds FVD: one number for all clips together. The
    file is a program that is run; give none whose origin you do not trust."""
    against: tuple[Path, ...] = ()
    """Earlier evaluations (their folders) to compare this one with at the end."""
    show: int = 2
    """So many of the best and of the worst clips are shown on the page."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, cuda:1, mps."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Precision of the transformer. Left out, that of the checkpoint's file."""


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Put evaluations of the same clips side by side: differences to the first, with paired bootstrap intervals."""

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="OUT")]
    """Folders that `fw-train evaluate` wrote; the first is what the others are compared with."""
    out: Path | None = None
    """Also write comparison.json and comparison.html into this folder."""


@dataclass(frozen=True, kw_only=True)
class EvidenceOptions:
    """Measure weights, or ablations of them, against a dataset with exact truth: docs/benchmarks/evidence.md."""

    checkpoint: Path | None = None
    """The model: a run of fw-train, its export, or small-world for the weights that come with fw-model."""
    base: Path | None = None
    """The video prior as a comparison: the run of `fw-train base`, or the checkpoint itself if its video blocks were
    never adapted (LoRA). Generated without the camera adapters and without the geometry branch."""
    arm: UseAppendAction[tuple[str, ...]] = ()
    """An ablation as NAME=EXPORT; several of one NAME are trainings with different seeds. Put in one table, the first
    being what the others are compared with."""
    data: Path
    """The annotated dataset whose clips are the truth; none of them may have been trained on."""
    out: Path
    """Folder for clips.jsonl (one line per clip and model; a second run goes on), evidence.json, evidence.md and
    strip.png."""
    clips: int = 200
    """The first so many usable clips, in the order of their sources."""
    takes: int = 1
    """So many clips in a row show one world (`fw-data toy --takes`): intervals are drawn over worlds."""
    seeds: tuple[int, ...] = (0,)
    """Noise seeds; every clip is generated once with each, and its numbers are averaged."""
    steps: int = 15
    """Denoising steps."""
    guidance: float = 1.0
    """Guidance on the text; 1 is none, and halves the time."""
    strip: int = 12
    """The first so many clips are drawn into strip.png."""
    min_confidence: float = 0.3
    """Annotated depth below this confidence (0 to 1) is not used as truth."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, cuda:1, mps."""


@dataclass(frozen=True, kw_only=True)
class WorldScoreOptions:
    """Generate the static subset of WorldScore in the layout that its own evaluation reads, or check it."""

    dataset: Annotated[Positional[Path], arg(metavar="WORLDSCORE_DATASET")]
    """The benchmark's dataset folder: static/static.json and the images that it names."""
    out: Path
    """Output root (the benchmark's runs_root); worldscore_output/ is made in it. A second run goes on."""
    checkpoint: Path | None = None
    """A run of fw-train or its export. Not needed with --check."""
    check: bool = False
    """Generate nothing: say whether OUT is complete; exit code 1 if it is not."""
    name: str = "fantasyworld"
    """Model name in the configuration file that is written for the benchmark."""
    style: Style = "photorealistic"
    """Which images; the paper's tables leave the stylized ones out."""
    limit: int | None = None
    """Only the first so many images of the list."""
    frames: int | None = None
    """Frames per camera movement, 4n + 1. Left out, the checkpoint's own clip length."""
    size: str | None = None
    """Height x width in pixels, for example 480x832. Left out, the checkpoint's own size."""
    steps: int | None = None
    """Denoising steps. Left out, the checkpoint's default."""
    guidance: float | None = None
    """Guidance on the text; 1 is none. Left out, the checkpoint's default."""
    seed: int = 0
    """Of the noise; every image and movement gets its own from this."""
    focal_px: float = 500.0
    """Focal length in pixels of the output; 500 is the benchmark's. Give less for images much smaller than 512."""
    unit: float = 1.0
    """Mean scene distances that one unit of the benchmark's paths is; its camera measure does not depend on it."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, cuda:1, mps."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Precision of the transformer. Left out, that of the checkpoint's file."""
