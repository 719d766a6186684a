"""The other scene that shallow footage allows: near and far exchanged, turns and moves mirrored.

Seen from far away, a relief and its inside-out twin look the same under cameras that turn the other way (the Necker
reversal; under parallel projection the two are exactly alike). A reconstruction that grew from the wrong one stays
there, since every step between them fits worse. Matches of key frames are too coarse to tell the two apart; positions
below one pixel do, so both are refined a little where the twin fits nearly as well, and the smaller residuals win.
"""

from dataclasses import replace

import numpy as np

from fw_data.annotators.sfm.bundle import adjust
from fw_data.annotators.sfm.calibration import LOSS_PX, MATCHES, robust_cost
from fw_data.annotators.sfm.scene import SparseScene
from fw_geometry.align import umeyama

WIDE_LOSS_PX = 8.0
"""The twin starts far from where it ends; with a narrow loss it would give up most of its observations."""
NEARLY_AS_GOOD = 1.6
"""Cost of the twin over that of the scene. A nearly flat lawn had 0.98 and 1.31 for the wrong scene."""
SAME_PLACE = 0.02
"""Distance of the cameras of two equal scenes, over their extent."""
SAME_TURN_DEG = 0.5
LOST_PX = 2.5
"""An observation that was given up counts as one of this residual."""


def reverse(scene: SparseScene) -> SparseScene:
    """The scene mirrored in depth about the median point, seen from the middle one of the posed cameras.

    With M = diag(1, 1, -1) in that camera's frame, points become c + M (p - c) and turns M R M; every camera keeps the
    place of c in its image. Twice gives the scene back.
    """
    posed = np.flatnonzero(scene.posed)
    anchor = scene.pose_w2c[posed[len(posed) // 2]]
    mirror = np.diag([1.0, 1.0, -1.0])
    points = scene.points @ anchor[:3, :3].T + anchor[:3, 3]
    center = np.median(points, axis=0)
    relative = scene.pose_w2c[posed] @ np.linalg.inv(anchor)
    turned = mirror @ relative[:, :3, :3] @ mirror
    pose = scene.pose_w2c.copy()
    pose[posed, :3, :3] = turned
    pose[posed, :3, 3] = relative[:, :3, :3] @ center + relative[:, :3, 3] - turned @ center
    return replace(scene, pose_w2c=pose, points=(points - center) @ mirror + center)


def candidates(scene: SparseScene, threads: int) -> list[SparseScene]:
    """The scene, and its adjusted reverse if that fits the matches nearly as well and did not come back to it."""
    twin = adjust(reverse(scene), loss_px=WIDE_LOSS_PX, refine_focal=False, max_iterations=100, threads=threads)
    twin = adjust(twin, loss_px=MATCHES.loss_px, max_iterations=100, threads=threads)
    if robust_cost(twin) >= NEARLY_AS_GOOD * robust_cost(scene) or same_cameras(scene, twin):
        return [scene]
    return [scene, twin]


def same_cameras(scene: SparseScene, other: SparseScene) -> bool:
    """Whether places (after a similarity) and turns agree: then the points do, too, as far as they are determined."""
    places, others = scene.centers[scene.posed], other.centers[scene.posed]
    off = np.linalg.norm(umeyama(others, places).apply(others) - places, axis=1)
    extent = np.linalg.norm(places - places.mean(axis=0), axis=1)
    turns = [way.pose_w2c[way.posed][:, :3, :3] @ way.pose_w2c[way.posed][0, :3, :3].T for way in (scene, other)]
    apart = np.einsum("fij,fij->f", *turns)
    apart_deg = np.degrees(np.arccos(np.clip((apart - 1) / 2, -1, 1)))
    return bool(np.sqrt((off**2).mean()) < SAME_PLACE * np.sqrt((extent**2).mean()) and apart_deg.max() < SAME_TURN_DEG)


def likeliest(scenes: list[SparseScene]) -> SparseScene:
    """The one with the smallest residuals, over the same number of observations for all."""
    most = max(len(scene.obs_xy) for scene in scenes)
    lost = float(np.log1p((LOST_PX / LOSS_PX) ** 2))

    def cost(scene: SparseScene) -> float:
        kept = len(scene.obs_xy)
        return kept * robust_cost(scene) + (most - kept) * lost

    return min(scenes, key=cost)
