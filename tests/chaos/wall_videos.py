"""Small raw videos with exact truth, made in milliseconds: a camera slides along a flat textured wall."""

from pathlib import Path

import cv2
import numpy as np

HEIGHT, WIDTH, DEPTH_M, STEP_PX = 48, 64, 2.0, 2


def write_wall_videos(root: Path, *, videos: int, frames: int) -> tuple[Path, Path]:
    """`root/raw` with so many videos and `root/truth` with their npz files; returns both."""
    from fw_toy.files import write_video

    raw, truth = root / "raw", root / "truth"
    raw.mkdir(parents=True)
    truth.mkdir()
    K = np.array([[WIDTH, 0, WIDTH / 2], [0, WIDTH, HEIGHT / 2], [0, 0, 1.0]])
    pose = np.tile(np.eye(4), (frames, 1, 1))
    pose[:, 0, 3] = np.arange(frames) * STEP_PX * DEPTH_M / WIDTH
    for index in range(videos):
        rng = np.random.default_rng(index)
        small = rng.integers(0, 256, (HEIGHT // 4, (WIDTH + STEP_PX * frames) // 4 + 1, 3), dtype=np.uint8)
        wall = cv2.resize(small, (WIDTH + STEP_PX * frames, HEIGHT), interpolation=cv2.INTER_CUBIC)
        video = np.stack([wall[:, STEP_PX * i : STEP_PX * i + WIDTH] for i in range(frames)])
        write_video(raw / f"wall-{index:04d}.mp4", video, 24.0)
        np.savez(
            truth / f"wall-{index:04d}.npz",
            depth_m=np.full((frames, HEIGHT, WIDTH), DEPTH_M, np.float32),
            K=np.tile(K, (frames, 1, 1)),
            pose_c2w=pose,
        )
    return raw, truth
