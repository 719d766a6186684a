"""Every preset of fw_geometry gets its own tag, whatever the scale, the length and the direction."""

import numpy as np
import pytest

from fw_data.quality.motion_tags import TAGS, motion_tags
from fw_geometry import make_trajectory

_EXPECTED = {
    ("orbit", 1): ["orbit-right"],
    ("orbit", -1): ["orbit-left"],
    ("dolly", 1): ["dolly-in"],
    ("dolly", -1): ["dolly-out"],
    ("truck", 1): ["truck-right"],
    ("truck", -1): ["truck-left"],
    ("pedestal", 1): ["pedestal-up"],
    ("pedestal", -1): ["pedestal-down"],
    ("pan", 1): ["pan-right"],
    ("pan", -1): ["pan-left"],
    ("tilt", 1): ["tilt-up"],
    ("tilt", -1): ["tilt-down"],
    ("roll", 1): ["roll-clockwise"],
    ("roll", -1): ["roll-counterclockwise"],
    ("spiral", 1): ["spiral"],
    ("still", 1): ["still"],
}


@pytest.mark.parametrize(("name", "amount"), list(_EXPECTED))
@pytest.mark.parametrize("frames", [17, 81])
def test_presets(name, amount, frames):
    for focus in (0.5, 1.0, 40.0):
        path = make_trajectory(name, frames, width=64, height=48, amount=amount, focus_distance=focus)
        assert motion_tags(path.pose_c2w, focus) == _EXPECTED[name, amount]
        smooth = make_trajectory(
            name, frames, width=64, height=48, amount=amount, focus_distance=focus, easing="smooth"
        )
        assert motion_tags(smooth.pose_c2w, focus) == _EXPECTED[name, amount]


def test_presets_survive_noise():
    rng = np.random.default_rng(0)
    for (name, amount), expected in _EXPECTED.items():
        if name == "spiral":
            continue  # its first steps are smaller than the noise
        pose = make_trajectory(name, 41, width=64, height=48, amount=amount).pose_c2w.copy()
        pose[:, :3, 3] += rng.normal(0, 0.001, (41, 3))
        assert motion_tags(pose, 1.0) == expected, name


def test_every_tag_is_listed_and_reached():
    assert {tag for tags in _EXPECTED.values() for tag in tags} == set(TAGS)


def test_mixed_motion_has_several_tags_the_strongest_first():
    pan = make_trajectory("pan", 21, width=64, height=48).pose_c2w
    tilt = make_trajectory("tilt", 21, width=64, height=48, angle_rad=0.3).pose_c2w
    rise = make_trajectory("pedestal", 21, width=64, height=48).pose_c2w
    mixed = pan @ tilt
    mixed[:, :3, 3] = rise[:, :3, 3]
    assert motion_tags(mixed, 1.0) == ["pan-right", "tilt-up", "pedestal-up"]


def test_a_drive_round_a_bend_is_a_dolly_and_a_pan():
    angle = np.linspace(0, np.pi / 2, 41)
    pose = np.eye(4)[None].repeat(41, 0)
    pose[:, 0, 0] = pose[:, 2, 2] = np.cos(angle)
    pose[:, 0, 2], pose[:, 2, 0] = np.sin(angle), -np.sin(angle)
    pose[:, 0, 3], pose[:, 2, 3] = 5 * (1 - np.cos(angle)), 5 * np.sin(angle)
    assert motion_tags(pose, 4.0) == ["pan-right", "dolly-in"]
