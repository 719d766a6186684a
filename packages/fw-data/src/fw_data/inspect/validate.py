"""The `validate` command: is every file of a dataset whole, and do its numbers mean what they say?

Structure: card, manifest and shards agree, nothing is torn, every checksum holds. Content: sizes and counts match,
poses are rigid, K is a camera, and point maps derived from depth, K and pose agree between frames as well as the
manifest claims. Every problem is listed; one bad clip does not hide another.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from fw_data.annotate.workdir import CARD_NAME
from fw_data.dataset import depth_codec
from fw_data.dataset.clip import MOVING, SKY, Cameras, unpack_cameras
from fw_data.dataset.reader import ClipDataset
from fw_data.dataset.schema import MASK_SUFFIX, ClipRecord, DatasetCard
from fw_data.dataset.shards import describe, read_member, scan
from fw_data.errors import DataError
from fw_data.options import ValidateOptions

MAX_REPROJECTION_ERROR = 0.25
"""Median relative depth error between frames from which K, poses and depth cannot belong together."""
SCORE_TOLERANCE, SCORE_TOLERANCE_RELATIVE = 0.002, 0.1
"""Largest difference of a re-derived reprojection error from the manifest (storage rounds depth to 11 bits)."""
_SHOWN = 50


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong."""

    where: str
    """File, shard or clip."""
    code: str
    """Short and stable."""
    what: str
    """Found and expected value."""


def run(options: ValidateOptions) -> int:
    """Validate and print; returns the exit code."""
    from rich.progress import track

    from fw_data.console import stdout_console

    console = stdout_console()
    dataset = ClipDataset(options.dataset)
    problems = list(check_structure(dataset))
    records = dataset.records
    if console.is_terminal:
        records = track(records, "checking clips", console=console)
    for record in records:
        problems += check_clip(dataset, record, content=not options.quick)
    for problem in problems[:_SHOWN]:
        console.print(f"{problem.code}: {problem.where}: {problem.what}", markup=False, highlight=False)
    if len(problems) > _SHOWN:
        console.print(f"... and {len(problems) - _SHOWN} more")
    verdict = f"{len(problems)} problems" if problems else "sound"
    how = "structure and checksums" if options.quick else "structure, checksums, content and reprojection"
    console.print(f"{options.dataset}: {len(dataset)} clips, {verdict} ({how})", markup=False, highlight=False)
    return 1 if problems else 0


def check_structure(dataset: ClipDataset) -> Iterator[Problem]:
    """Card, manifest and shards against each other."""
    try:
        card = DatasetCard.model_validate_json((dataset.path / CARD_NAME).read_bytes())
    except (OSError, ValidationError) as error:
        yield Problem(where=CARD_NAME, code="bad-card", what=" ".join(str(error).split()))
        return
    if card.counts.get("clips") != len(dataset):
        yield Problem(
            where=CARD_NAME, code="bad-card", what=f"{card.counts.get('clips')} clips, the manifest has {len(dataset)}"
        )
    if len({record.id for record in dataset.records}) != len(dataset):
        yield Problem(where="manifest", code="duplicate-id", what="two rows have the same id")
    rows: dict[str, list[ClipRecord]] = {entry.path: [] for entry in card.shards}
    for record in dataset.records:
        if record.shard not in rows:
            yield Problem(where=record.shard, code="unlisted-shard", what=f"not in {CARD_NAME}, but in the manifest")
        rows.setdefault(record.shard, []).append(record)
    for entry in card.shards:
        path = dataset.path / entry.path
        if not path.is_file():
            yield Problem(where=entry.path, code="shard-missing", what=f"{entry.clips} clips were in it")
            continue
        if describe(path, dataset.path, entry.clips) != entry:
            size = path.stat().st_size
            what = (
                f"checksum differs; {size} bytes, expected {entry.size}" if size != entry.size else "checksum differs"
            )
            yield Problem(where=entry.path, code="shard-torn" if size < entry.size else "shard-changed", what=what)
        yield from _check_members(path, rows[entry.path])
    for path in sorted((dataset.path / "shards").glob("*.tar")):
        if path.relative_to(dataset.path).as_posix() not in rows:
            yield Problem(where=path.name, code="unlisted-shard", what="no clip of the manifest is in it")


def check_clip(dataset: ClipDataset, record: ClipRecord, *, content: bool) -> list[Problem]:
    """One clip: checksums, and if asked for what the files say."""
    problems = []
    try:
        for problem in _clip_problems(dataset, record, content):
            problems.append(problem)  # noqa: PERF402 - what was found before an error counts too
    except DataError as error:
        problems.append(Problem(where=_name(record), code=error.code, what=str(error)))
    return problems


def _check_members(path: Path, records: list[ClipRecord]) -> Iterator[Problem]:
    found: dict[tuple[str, str], tuple[int, int]] = {}
    try:
        for clip_id, suffix, offset, size in scan(path):
            found[clip_id, suffix] = (offset, size)
    except DataError as error:
        yield Problem(where=path.name, code=error.code, what=str(error))
    for record in records:
        for suffix, member in record.members.items():
            at = found.pop((record.id, suffix), None)
            if at is None:
                yield Problem(where=_name(record), code="member-missing", what=f"no {suffix} in {path.name}")
            elif at != (member.offset, member.size):
                yield Problem(
                    where=_name(record), code="member-moved", what=f"{suffix} is at {at}, the manifest has {member}"
                )
    for clip_id, suffix in found:
        yield Problem(where=path.name, code="member-unlisted", what=f"{clip_id}.{suffix} is not in the manifest")


def _clip_problems(dataset: ClipDataset, record: ClipRecord, content: bool) -> Iterator[Problem]:
    from fw_data.media.stored import decode_video

    where = _name(record)
    absent = set(record.suffixes) - record.members.keys()
    if absent:
        yield Problem(where=where, code="member-missing", what=f"the manifest has no {', '.join(sorted(absent))}")
        return
    files: dict[str, bytes] = {}
    for suffix, member in record.members.items():
        files[suffix] = read_member(dataset.path / record.shard, member)
        if sha256(files[suffix]).hexdigest() != member.sha256:
            yield Problem(where=where, code="checksum", what=f"{suffix} has changed")
    try:
        inside = ClipRecord.model_validate_json(files["json"])
    except ValidationError as error:
        raise DataError("record-differs", f"the .json does not read: {' '.join(str(error).split())}") from error
    if inside != record.model_copy(update={"shard": "", "members": {}}):
        yield Problem(where=where, code="record-differs", what="the .json in the shard is not the row of the manifest")
    if not content:
        return
    shape = (record.num_frames, record.height, record.width)
    video = decode_video(files["mp4"], record.num_frames)
    cameras = unpack_cameras(files["cameras.npz"])
    if not record.has_depth:
        if video.shape[:3] != shape:
            yield Problem(where=where, code="shape", what=f"mp4 is {video.shape[:3]}, not {shape} as in the manifest")
        yield from _camera_problems(record, cameras)
        return
    depth_m = depth_codec.decode(files["depth.zst"])
    confidence = depth_codec.decode(files["conf.zst"])
    shapes = {"mp4": video.shape[:3], "depth.zst": depth_m.shape, "conf.zst": confidence.shape}
    labels = depth_codec.decode(files[MASK_SUFFIX]) if record.has_masks else None
    shapes |= {} if labels is None else {MASK_SUFFIX: labels.shape}
    for name, got in shapes.items():
        if got != shape:
            yield Problem(where=where, code="shape", what=f"{name} is {got}, not {shape} as in the manifest")
            return
    if not np.isfinite(depth_m).all() or depth_m.min() < 0 or not (depth_m > 0).any():
        yield Problem(where=where, code="depth", what="depth is negative, not finite, or nowhere valid")
    if confidence.max() > 1 + 1e-6:
        yield Problem(where=where, code="confidence", what=f"confidence reaches {confidence.max()}")
    if labels is not None and labels.max() > (MOVING | SKY):
        yield Problem(
            where=where, code="masks", what=f"{MASK_SUFFIX} holds label {labels.max():g}, which means nothing"
        )
    bad_cameras = list(_camera_problems(record, cameras))
    yield from bad_cameras
    if not bad_cameras:
        yield from _check_reprojection(record, depth_m, confidence, cameras)


def _camera_problems(record: ClipRecord, cameras: Cameras) -> Iterator[Problem]:
    from fw_geometry.camera import Trajectory

    where = _name(record)
    if len(cameras.K) != record.num_frames:
        yield Problem(where=where, code="shape", what=f"{len(cameras.K)} cameras for {record.num_frames} frames")
        return
    try:
        path = Trajectory(K=cameras.K, pose_c2w=cameras.pose_c2w, width=record.width, height=record.height)
    except ValueError as error:
        yield Problem(where=where, code="cameras", what=str(error))
        return
    degrees = np.degrees(path.fov_rad)
    if degrees.min() < 2 or degrees.max() > 170:
        what = f"field of view from {degrees.min():.1f} to {degrees.max():.1f} degrees"
        yield Problem(where=where, code="cameras", what=what)
    center = cameras.K[:, :2, 2] / (record.width, record.height)
    if center.min() < 0 or center.max() > 1:
        yield Problem(where=where, code="cameras", what="the principal point is outside the frame")
    if not np.allclose(cameras.pose_c2w[0], np.eye(4), atol=1e-6):
        yield Problem(where=where, code="cameras", what="the first pose is not the identity")
    if (np.diff(cameras.time_s) <= 0).any() or (np.diff(cameras.frame_index) < 1).any():
        yield Problem(where=where, code="cameras", what="frame times or indices do not grow")


def _check_reprojection(
    record: ClipRecord, depth_m: np.ndarray, confidence: np.ndarray, cameras: Cameras
) -> Iterator[Problem]:
    from fw_data.quality.grade import consistency

    found = consistency(depth_m, confidence, cameras.K, cameras.pose_c2w)
    error = found.median if found.comparisons else 1.0
    claimed = record.scores.get("reprojection_error", error)
    if abs(error - claimed) > SCORE_TOLERANCE + SCORE_TOLERANCE_RELATIVE * claimed:
        what = f"point maps of different frames disagree by {error:.3f}, not {claimed:.3f} as in the manifest"
        yield Problem(where=_name(record), code="reprojection", what=what)
    elif found.comparisons and error > MAX_REPROJECTION_ERROR:
        what = f"point maps of different frames disagree by {error:.3f}: depth, K and poses do not belong together"
        yield Problem(where=_name(record), code="reprojection", what=what)


def _name(record: ClipRecord) -> str:
    return f"clip {record.id} ({record.source} [{record.start_frame}:{record.start_frame + record.num_frames}])"
