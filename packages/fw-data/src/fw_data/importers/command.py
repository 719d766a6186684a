"""The `import` command: scenes of other programs, frames with cameras and perhaps depth, as a dataset of ours.

A scene is cut into clips as `annotate` cuts a shot. Depth that is there is stored with confidence 1 and graded by how
well it reprojects; a scene without any gives clips that say so (`has_depth` false): they validate, and training leaves
them out and counts them, or `fw-data annotate` makes depth for their video. Whatever can't be used is listed in
refusals.jsonl. The same input gives the same bytes. OUT appears at once, when all is written.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import numpy as np

from fw_core.files import replacing_folder, write_bytes
from fw_data.annotate.scan import clip_id
from fw_data.annotate.workdir import CARD_NAME, REFUSALS_NAME
from fw_data.annotators.base import ClipGeometry
from fw_data.dataset.clip import Cameras, pack_clip
from fw_data.dataset.manifest import MANIFEST_NAME, write_manifest
from fw_data.dataset.schema import CONVENTIONS, SCORES, ClipRecord, DatasetCard, Refusal, ShardEntry
from fw_data.dataset.shards import ShardWriter, describe
from fw_data.errors import DataError
from fw_data.importers import FORMATS
from fw_data.importers.base import ImportedScene, ImportSettings, VideoFrames
from fw_data.importers.recognize import find_scenes
from fw_data.media.resize import ResizeCrop, place, recorded_size
from fw_data.media.times import time_gaps
from fw_data.options import ImportOptions
from fw_data.quality.grade import grade, score_geometry

VERSION = "1"
SHARD_BYTES = 1 << 30
CRF = 14


def run(options: ImportOptions) -> int:
    """Import and print; returns the exit code."""
    from rich.progress import track

    from fw_data.console import stdout_console

    console = stdout_console()
    if not options.src.is_dir():
        raise ValueError(f"{options.src} is not a folder")
    if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        raise ValueError(f"{options.out} is not empty: give a new folder")
    with replacing_folder(options.out) as folder:
        importer = SceneImporter(options, folder)
        found = importer.find()
        for path in track(found, "importing", console=console) if console.is_terminal else found:
            importer.add(path)
        card = importer.close()
    for refusal in importer.refusals:
        console.print(f"{refusal.status}: {refusal.source}: {refusal.reason}", highlight=False, markup=False)
    flat = sum(not record.has_depth for record in importer.records)
    console.print(
        f"{options.out}: {card.counts['clips']} clips of {len(found)} scenes, {card.counts['frames']} frames"
        + (f"; {flat} clips have cameras only, no depth" if flat else ""),
        highlight=False,
        markup=False,
    )
    return 0 if importer.records else 1


class SceneImporter:
    """Writes scenes into a new dataset, one after another."""

    def __init__(self, options: ImportOptions, folder: Path) -> None:
        if not 2 <= options.min_frames <= options.frames:
            raise ValueError(
                f"--min-frames {options.min_frames} and --frames {options.frames}: need 2 <= min <= frames"
            )
        self.options = options
        self.format, self._found = find_scenes(options.src, options.format)
        self.settings = ImportSettings(
            fps=options.fps,
            units=options.units,
            intrinsics=options.intrinsics,
            depth_unit=options.depth_unit,
            interpolate=options.interpolate,
        )
        self.config: dict[str, str | int | float | bool | None] = {
            "backend": f"import-{self.format}",
            "backend_version": VERSION,
            "size": recorded_size(options.size),
            "max_frames": options.frames,
            "min_frames": options.min_frames,
            "crf": CRF,
            "fps": options.fps,
            "units": options.units,
            "intrinsics": json.dumps(options.intrinsics),
            "depth_unit": options.depth_unit,
        } | ({"interpolate": True} if options.interpolate else {})
        self.config_hash = hashlib.sha256(json.dumps(self.config, sort_keys=True).encode()).hexdigest()[:16]
        self.records: list[ClipRecord] = []
        self.refusals: list[Refusal] = []
        self._module = import_module(FORMATS[self.format])
        self._folder = folder
        self._shards: list[ShardEntry] = []
        self._writer: ShardWriter | None = None
        self._scenes = 0

    def find(self) -> list[Path]:
        """The scenes of the folder."""
        return self._found

    def add(self, path: Path) -> None:
        """Import one scene, or note why not."""
        source = path.relative_to(self.options.src).as_posix()
        source = source if source != "." else path.resolve().name
        self._scenes += 1
        try:
            opened: ImportedScene | list[ImportedScene] = self._module.open_scene(path, self.options.src, self.settings)
            for scene in opened if isinstance(opened, list) else [opened]:
                self._add(scene, f"{source}/{scene.name}" if scene.name else source)
        except (DataError, ValueError, OSError) as error:
            code = error.code if isinstance(error, DataError) else "camera-file"
            self._refuse(source, code, str(error))

    def close(self) -> DatasetCard:
        """Close the last shard; write manifest, card and refusals."""
        self._close_shard()
        frames = sum(record.num_frames for record in self.records)
        outcomes = Counter(refusal.status for refusal in self.refusals)
        counts = {"videos": self._scenes, "clips": len(self.records), "frames": frames}
        card = DatasetCard(
            config_hash=self.config_hash,
            config=self.config,
            versions={"fw-data": version("fw-data")},
            counts=counts | {status: outcomes[status] for status in ("filtered", "refused", "failed")},
            grades=dict(sorted(Counter(str(record.grade) for record in self.records).items())),
            units=sorted({record.units for record in self.records}),
            conventions=CONVENTIONS,
            scores=SCORES,
            shards=self._shards,
        )
        write_manifest(self._folder / MANIFEST_NAME, self.records)
        lines = [json.dumps(refusal.model_dump(exclude_none=True)) + "\n" for refusal in self.refusals]
        write_bytes(self._folder / REFUSALS_NAME, "".join(lines).encode(), durable=True)
        write_bytes(self._folder / CARD_NAME, card.model_dump_json(indent=1).encode(), durable=True)
        return card

    def _add(self, scene: ImportedScene, source: str) -> None:
        if not (np.diff(scene.time_s) > 0).all():
            raise DataError("times", f"{source}: time stamps do not increase")
        scene.notes.extend(_video_notes(scene))
        sha256 = scene.frames.sha256()
        placement = place(scene.frames.height, scene.frames.width, self.options.size)
        for start, end in self._windows(scene, source):
            try:
                record, files = self._clip(scene, source, sha256, placement, start, end)
            except DataError as error:
                self._refuse(source, error.code, str(error), (start, end))
                continue
            self._store(record, files)

    def _windows(self, scene: ImportedScene, source: str) -> Iterator[tuple[int, int]]:
        for first, last in _without_gaps(scene.posed or [(0, scene.frames.count)], scene.time_s):
            for start in range(first, last, self.options.frames):
                end = min(start + self.options.frames, last)
                if end - start >= self.options.min_frames:
                    yield start, end
                else:
                    reason = f"{end - start} frames; a clip needs {self.options.min_frames}"
                    self._refuse(source, "too-short", reason, (start, end))

    def _clip(
        self, scene: ImportedScene, source: str, sha256: str, placement: ResizeCrop, start: int, end: int
    ) -> tuple[ClipRecord, dict[str, bytes]]:
        video = scene.frames.read(start, end - start, placement)
        path = placement.trajectory(scene.cameras.slice(start, end)).relative_to_first()
        depth_m, missing = _depth(scene, placement, start, end)
        notes = [*scene.notes, *([f"{missing} frames have no depth"] if missing and depth_m is not None else [])]
        confidence = np.zeros(video.shape[:3], np.float32) if depth_m is None else (depth_m > 0).astype(np.float32)
        if depth_m is None:
            scores = {"posed_fraction": 1.0, "coverage": 0.0}
            notes.append("cameras only: the scene has no depth")
        else:
            geometry = ClipGeometry(
                depth_m=depth_m,
                confidence=confidence,
                K=path.K,
                pose_c2w=path.pose_c2w,
                pose_confidence=np.ones(end - start, np.float32),
                units=path.units,
            )
            scores = score_geometry(geometry)
        time_s = scene.time_s[start:end]
        index = np.arange(start, end) if scene.frame_index is None else scene.frame_index[start:end]
        record = ClipRecord(
            id=clip_id(f"{sha256}/{source}", start, end - start, self.config_hash),
            source=source,
            source_sha256=sha256,
            source_width=scene.frames.width,
            source_height=scene.frames.height,
            start_frame=int(index[0]),
            num_frames=end - start,
            start_time_s=float(time_s[0]),
            fps=round(float((len(time_s) - 1) / (time_s[-1] - time_s[0])), 6),
            width=placement.width,
            height=placement.height,
            caption=scene.caption,
            units=path.units,
            backend=str(self.config["backend"]),
            backend_version=VERSION,
            config_hash=self.config_hash,
            scores={name: float(value) for name, value in sorted(scores.items()) if np.isfinite(value)},
            grade="C" if depth_m is None else grade(scores),
            notes=notes,
            has_depth=depth_m is not None,
        )
        cameras = Cameras(
            K=path.K,
            pose_c2w=path.pose_c2w,
            pose_confidence=np.ones(end - start, np.float32),
            frame_index=index.astype(np.int64),
            time_s=time_s.astype(np.float64),
        )
        depth_m = np.zeros(video.shape[:3], np.float32) if depth_m is None else depth_m
        return record, pack_clip(record, video=video, depth_m=depth_m, confidence=confidence, cameras=cameras, crf=CRF)

    def _store(self, record: ClipRecord, files: dict[str, bytes]) -> None:
        if self._writer is None:
            self._writer = ShardWriter(self._folder / "shards" / f"{len(self._shards):06d}.tar")
        members = self._writer.add(record.id, files)
        shard = self._writer.path.relative_to(self._folder).as_posix()
        self.records.append(record.model_copy(update={"shard": shard, "members": members}))
        if self._writer.size >= SHARD_BYTES:
            self._close_shard()

    def _close_shard(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._shards.append(describe(self._writer.path, self._folder, self._writer.clips))
            self._writer = None

    def _refuse(self, source: str, code: str, reason: str, span: tuple[int, int] | None = None) -> None:
        self.refusals.append(
            Refusal(
                status="filtered" if code == "too-short" else "refused",
                source=source,
                start_frame=None if span is None else span[0],
                num_frames=None if span is None else span[1] - span[0],
                stage="import",
                code=code,
                reason=reason,
            )
        )


def _video_notes(scene: ImportedScene) -> list[str]:
    """Changes to the images of a video, and its gaps in time."""
    if not isinstance(scene.frames, VideoFrames):
        return []
    gaps = len(time_gaps(scene.time_s))
    return [*scene.frames.info.notes, *([f"gaps in the time stamps, where clips end: {gaps}"] if gaps else [])]


def _without_gaps(stretches: Sequence[tuple[int, int]], time_s: np.ndarray) -> Iterator[tuple[int, int]]:
    """The stretches, cut at gaps in time."""
    gaps = time_gaps(time_s)
    for first, last in stretches:
        inside = [int(gap) for gap in gaps if first < gap < last]
        yield from pairwise([first, *inside, last])


def _depth(scene: ImportedScene, placement: ResizeCrop, start: int, end: int) -> tuple[np.ndarray | None, int]:
    """Depth of a clip at its stored size, and how many frames have none; None if no frame has any."""
    if scene.depth is None:
        return None, end - start
    maps = [scene.depth(frame) for frame in range(start, end)]
    missing = sum(depth is None for depth in maps)
    if missing == len(maps):
        return None, missing
    nothing = np.zeros((placement.height, placement.width), np.float32)
    depth_m = np.stack([nothing if depth is None else placement.depth(depth) for depth in maps])
    if not (depth_m > 0).any():
        return None, len(maps)
    return depth_m, missing
