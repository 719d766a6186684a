"""`fw generate --server URL`: generate a world on a server and download it."""

import os
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from fw_app.example_images import resolve_image
from fw_app.options import GenerateOptions
from fw_core.files import make_writable, write_bytes
from fw_serve.client import Client, ServiceError, Video

FILES = {
    "video.mp4": ("video", None),
    "depth.mp4": ("depth", None),
    "geometry.npz": ("geometry", None),
    "points.ply": ("pointcloud", "ply"),
    "points.glb": ("pointcloud", "glb"),
    "cameras.json": ("cameras", "json"),
    "transforms.json": ("cameras", "transforms"),
    "requested_cameras.json": ("cameras", "requested"),
    "world.json": ("world", None),
}
"""Variant and format of each file of a local `fw generate`."""

ARCHIVES: dict[tuple[str, str | None], dict[str, tuple[str, ...]]] = {
    ("colmap", None): {"images/": ("images/", "gaussians/images/"), "sparse/": ("colmap/sparse/", "gaussians/sparse/")},
    ("depth", "zip"): {"": ("depth/",)},
}
"""Variant and format of each archive; folders in it, and folders of a local `fw generate` with the same files."""

LOCAL_ONLY = (
    "batch", "checkpoint", "device", "dtype", "weights", "offload", "parallel", "last_image", "lora", "segments",
    "samples_per_pass",
)  # fmt: skip


def generate_remotely(options: GenerateOptions, client: Client | None = None) -> Video:
    """Generate a world on `options.server`, print progress, and write its files to `options.out`.

    Raises:
        ValueError: an option that applies to local generation only.
        OSError: the image cannot be read, or a file cannot be written.
        ServiceError: (a RuntimeError) the server refused the request, failed, or cannot be reached.
    """
    assert options.server is not None
    defaults = GenerateOptions(image=options.image, out=options.out)
    given = [name for name in LOCAL_ONLY if getattr(options, name) != getattr(defaults, name)]
    if given:
        named = ", ".join("--" + name.replace("_", "-") for name in given)
        raise ValueError(f"{named} cannot be used with --server; remove it, or generate on this machine")
    if options.image is None:
        raise ValueError("--server needs an IMAGE: the first frame, as a file or example:NAME")
    image, prompt = resolve_image(options.image, options.prompt)
    make_writable(options.out)
    with client or Client(options.server, api_key=os.environ.get("FW_API_KEY")) as service:
        video = service.create(
            image,
            prompt or "a scene",
            trajectory=_trajectory(options),
            settings=options.settings,
        )
        print(f"{video.id}: {_state(video)}", flush=True)
        printed = [video.status, video.stage]

        def show(now: Video) -> None:
            if [now.status, now.stage] != printed:
                printed[:] = [now.status, now.stage]
                print(f"{video.id}: {_state(now)}", flush=True)

        try:
            video = service.wait(video.id, on_change=show)
        except KeyboardInterrupt:
            service.cancel(video.id)
            raise
        download_world(service, video.id, options.out)
    for note in video.notes:
        print(f"note: {note}")
    for name in sorted(path.name for path in options.out.iterdir()):
        print(f"  {options.out / name}")
    print(f"world of {video.num_frames} frames written to {options.out}")
    return video


def download_world(service: Client, video_id: str, folder: Path) -> None:
    """Write all files of a completed world, in the layout of a local `fw generate`.

    Raises:
        ServiceError: the server refused a download or cannot be reached.
        OSError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, (variant, kind) in FILES.items():
        try:
            service.download(video_id, variant, folder / name, format=kind)
        except ServiceError as error:
            if name != "points.glb" or error.code != "content_not_found":  # a cloud without points has no GLB
                raise
    for (variant, kind), targets in ARCHIVES.items():
        archive = service.download(video_id, variant, folder / f"{variant}.zip", format=kind)
        try:
            _unpack(archive, folder, targets)
        except BadZipFile as error:
            raise ServiceError(f"{variant} of {video_id} is not a zip archive: {error}") from error
        finally:
            archive.unlink()


def _unpack(archive: Path, folder: Path, targets: dict[str, tuple[str, ...]]) -> None:
    """Write the files of an archive to the folders that `targets` names. Raises ServiceError for an unsafe name."""
    with ZipFile(archive) as content:
        for name in content.namelist():
            if name.startswith("/") or ".." in Path(name).parts or "\\" in name:
                raise ServiceError(f"the server sent an archive with the unsafe name {name!r}")
            for start, places in targets.items():
                for place in places if name.startswith(start) and not name.endswith("/") else ():
                    write_bytes(folder / (place + name.removeprefix(start)), content.read(name))


def _trajectory(options: GenerateOptions) -> dict[str, object] | Path:
    if Path(options.trajectory).exists():
        if Path(options.trajectory).is_dir():
            raise ValueError(
                f"{options.trajectory} is a folder; --server takes a camera file, so convert the COLMAP model first"
            )
        if options.angle_deg is not None or options.distance is not None:
            raise ValueError("--angle-deg and --distance apply to presets only, not to a camera file; remove them")
        return Path(options.trajectory)
    shape = {"angle_deg": options.angle_deg, "distance": options.distance}
    return {"preset": options.trajectory, **{name: value for name, value in shape.items() if value is not None}}


def _state(video: Video) -> str:
    if video.status == "queued":
        return f"queued, position {video.queue_position}" if video.queue_position else "queued"
    return video.status if video.stage is None or video.status != "in_progress" else video.stage
