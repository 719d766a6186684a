"""Videos to a dataset with depth and cameras, read back, and handed to another program.

    python examples/04_dataset.py dataset_demo

The videos show a painted slanted wall, whose true depth and cameras stand in for an annotation; leave out `--geometry
oracle --truth ...` to annotate videos of your own. Everything here is also a command: fw-data annotate, card, export.
"""

import sys
from pathlib import Path

import numpy as np

from fw_data import ClipDataset
from fw_data.cli import main as fw_data
from fw_data.dataset.buckets import Bucket, BucketTable
from fw_data.dataset.loader import ClipLoader
from fw_data.media.stored import encode_video
from fw_geometry import make_trajectory


def film(folder: Path, name: str, slope: float, frames: int = 13, height: int = 48, width: int = 80) -> None:
    """A camera slides past the wall z = 3 + slope x: NAME.mp4, NAME.txt (caption) and the truth NAME.npz."""
    path = make_trajectory("truck", frames, width=width, height=height, distance=0.6)
    ray_y, ray_x = (np.mgrid[:height, :width] + 0.5 - [[[height / 2]], [[width / 2]]]) / path.K[0, 0, 0]
    shift = path.pose_c2w[:, 0, 3, None, None]
    depth = (3 + slope * shift) / (1 - slope * ray_x)
    paint = np.random.default_rng(len(name)).uniform(40, 220, (64, 64, 3))
    video = paint[np.int64((ray_y * depth + 9) * 6) % 64, np.int64((shift + ray_x * depth + 9) * 6) % 64]
    for part in ("raw", "truth"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "raw" / f"{name}.mp4").write_bytes(encode_video(video.astype(np.uint8), 12.0, crf=10))
    (folder / "raw" / f"{name}.txt").write_text(f"a painted wall, slope {slope}")
    np.savez(folder / "truth" / f"{name}.npz", depth_m=depth.astype(np.float32), K=path.K, pose_c2w=path.pose_c2w)


def command(*words: str | Path) -> None:
    """Run `fw-data ...` in this process."""
    print("\n$ fw-data", *words)
    assert fw_data([str(word) for word in words]) == 0, "the error is printed above"


def look(dataset: ClipDataset) -> None:
    """Print the parts of one clip and check that they are consistent."""
    clip = dataset.load(0, frames=slice(0, 9))
    print(f"\n{clip.caption!r}: video {clip.video.shape}, grade {dataset.records[0].grade}, {clip.units} units")
    # a point of the first frame, moved into the last camera, has the depth stored there
    w2c = np.linalg.inv(clip.pose_c2w[-1])
    x, y, z = clip.K[-1] @ (w2c[:3, :3] @ clip.points_world[0, 24, 40] + w2c[:3, 3])
    seen = clip.depth_m[-1, int(y / z), int(x / z)]
    print(f"the middle of frame 0 is {z:.3f} away from the last camera, where the depth map says {seen:.3f}")


def batches(dataset: ClipDataset) -> None:
    """Training samples: an order that a resumed run continues."""
    loader = ClipLoader(dataset, BucketTable(buckets=(Bucket(frames=9, height=32, width=64, batch=2),)), seed=0)
    for _, batch in zip(range(3), loader, strict=False):
        print(f"step {batch.step}: video {tuple(batch.video.shape)}, windows start at {batch.starts}")
    print("to go on from here:", loader.state_dict())


def main() -> None:
    """Make, look, load, export."""
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "dataset_demo")
    dataset = out / "dataset"
    film(out, "left", slope=-0.3)
    film(out, "right", slope=0.4)
    command("annotate", out / "raw", dataset, "--geometry", "oracle", "--truth", out / "truth", "--workers", "0")
    command("card", dataset, "--description", "Two painted walls.", "--license", "*=CC0-1.0")
    look(ClipDataset(dataset))
    batches(ClipDataset(dataset))
    command("export", dataset, out / "nerfstudio", "--format", "nerfstudio")
    command("import", out / "nerfstudio", out / "again", "--format", "nerfstudio")
    poses = [ClipDataset(path).load(0).pose_c2w for path in (dataset, out / "again")]
    print(f"cameras after the round trip differ by {np.abs(poses[0] - poses[1]).max():.1e}")


if __name__ == "__main__":
    main()
