"""Progress along the path, on rooms whose true video, half-way video and standing camera are known."""

import numpy as np
import pytest

from fw_geometry import Trajectory
from fw_toy.rooms.clip import RoomClip, render_room
from fw_train.metrics.progress import progress


def judged(clip: RoomClip, video: np.ndarray) -> float | None:
    _, height, width = clip.depth_m.shape
    path = Trajectory(
        pose_c2w=clip.plan.pose_c2w,
        K=np.repeat(clip.plan.K[None], len(clip.video), axis=0),
        width=width,
        height=height,
    )
    return progress(video, clip.video[0], clip.depth_m[0], path)


@pytest.mark.parametrize("seed", [4, 7, 8, 9])
def test_the_true_video_goes_all_the_way_and_a_standing_camera_goes_nowhere(seed: int) -> None:
    clip = render_room(seed, frames=17)
    full = judged(clip, clip.video)
    assert full is not None
    assert 0.9 <= full <= 1.0
    assert judged(clip, np.repeat(clip.video[:1], 17, axis=0)) == 0.0


def test_a_video_at_half_speed_gets_half_of_the_way() -> None:
    clip = render_room(4, frames=17)
    assert judged(clip, clip.video[np.arange(17) // 2]) == pytest.approx(0.5, abs=0.1)


def test_soft_frames_are_judged_like_sharp_ones() -> None:
    clip = render_room(4, frames=17)
    soft = clip.video.reshape(17, 24, 4, 36, 4, 3).mean((2, 4)).round().astype(np.uint8).repeat(4, 1).repeat(4, 2)
    assert judged(clip, soft) == pytest.approx(judged(clip, clip.video), abs=0.1)


def test_a_path_without_motion_has_no_progress() -> None:
    clip = render_room(3, frames=17)
    assert clip.plan.move == "still"
    assert judged(clip, clip.video) is None
