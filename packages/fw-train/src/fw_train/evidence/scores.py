"""The scores of one clip in `fw-train evidence`: references that need no model, and samples of a model.

Each score is named `kind/measure` or `kind/measure@where`, where `where` is a frame range or a noise level.
Axis legend: F frames, H W pixels; lengths in scene units.
"""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from einops import rearrange
from jaxtyping import UInt8

from fw_core.images import psnr
from fw_geometry import camera_error
from fw_model.autoencoders.base import VideoAutoencoder
from fw_model.autoencoders.block_dct import BlockDCT
from fw_model.pipeline.result import World
from fw_train.evidence.levels import LevelPass, still_latent_error, true_world
from fw_train.metrics.consistency import HEADLINE_GAP, reprojection
from fw_train.metrics.images import ssim
from fw_train.metrics.measure import measure, measure_geometry
from fw_train.metrics.measures import finite
from fw_train.metrics.progress import progress
from fw_train.metrics.recovery import recover_path
from fw_train.metrics.truth import TruthClip
from fw_train.metrics.warp import warp_first_frame

Scores = dict[str, float | None]
GEOMETRY = ("depth/abs_rel", "depth/delta1", "pose/ate", "points/chamfer", "follow/rotation", "follow/direction")
"""Measures of depth, cameras and points, taken at every noise level."""
_GROUPS = 4


def frame_ranges(frames: int) -> list[tuple[int, int]]:
    """First and last frame of four equal groups of the frames after frame 0 (fewer groups for short clips)."""
    later = frames - 1
    count = min(_GROUPS, later)
    edges = [1 + later * i // count for i in range(count + 1)]
    return [(first, after - 1) for first, after in pairwise(edges)]


def reference_scores(truth: TruthClip, autoencoder: VideoAutoencoder) -> Scores:
    """Scores of the autoencoder, the fixed transform, both baselines, and the camera estimator on the true video.

    Raises:
        ValueError: the images are too small for SSIM.
    """
    learned, fixed = reconstruct(truth.video, autoencoder), reconstruct(truth.video, BlockDCT())
    still = np.repeat(truth.video[:1], len(truth.video), axis=0)
    warped = warp_first_frame(truth.video[0], truth.depth[0], truth.trajectory)
    scores: Scores = {
        "autoencoder/psnr_all": float(psnr(learned, truth.video).mean()),
        "block_dct/psnr_all": float(psnr(fixed, truth.video).mean()),
        "still/latent_error": still_latent_error(truth, autoencoder),
    }
    for name, video in (("autoencoder", learned), ("still", still), ("warp", warped)):
        scores |= _by_distance(name, video, truth)
        scores |= _true_consistency(name, video, truth) | _progress(name, video, truth)
    return scores | _true_consistency("truth", truth.video, truth) | camera_scores("truth", truth.video, truth)


def video_scores(video: UInt8[np.ndarray, "F H W 3"], truth: TruthClip) -> Scores:
    """Scores from pixels alone: PSNR and SSIM by frame range, camera following, consistency with the true scene."""
    return (
        _by_distance("video", video, truth)
        | camera_scores("video", video, truth)
        | _true_consistency("video", video, truth)
        | _progress("video", video, truth)
    )


def world_scores(world: World, truth: TruthClip) -> Scores:
    """Scores of the geometry that the model predicts for its sample, and of the first frame warped with it."""
    found = measure(world, truth).scores
    warped = warp_first_frame(truth.video[0], world.depth[0], truth.trajectory)
    scores = {f"own/{name}": found[name] for name in found if not name.startswith("video/")}
    return scores | _by_distance("own_warp", warped, truth) | _progress("own_warp", warped, truth)


def level_scores(found: LevelPass, truth: TruthClip) -> Scores:
    """Denoising error and geometry of one pass over real latents."""
    scores: Scores = {}
    if found.latent_error is not None:
        scores[f"latent_error@{found.sigma:g}"] = found.latent_error
    if found.world is not None:
        measured = measure_geometry(found.world, truth).scores
        scores |= {f"level/{name}@{found.sigma:g}": measured[name] for name in GEOMETRY}
    return scores


def camera_scores(kind: str, video: UInt8[np.ndarray, "F H W 3"], truth: TruthClip) -> Scores:
    """Error of the camera path recovered from the video (`recover_path`) against the requested path, in degrees."""
    path = recover_path(video, truth.depth[0], truth.trajectory.K)
    error = camera_error(path.pose_c2w, truth.trajectory.pose_c2w)
    return {
        f"{kind}/rotation": error.rotation_deg,
        f"{kind}/direction": finite(error.translation_deg),
        f"{kind}/cameras_found": float(path.found[1:].mean()),
    }


@torch.no_grad()
def reconstruct(video: UInt8[np.ndarray, "F H W 3"], autoencoder: VideoAutoencoder) -> UInt8[np.ndarray, "F H W 3"]:
    """Encode and decode a video."""
    pixels = rearrange(torch.from_numpy(video).float() / 127.5 - 1, "F H W c -> 1 c F H W")
    back = autoencoder.decode(autoencoder.encode(pixels))[0].float().clamp(-1, 1)
    return rearrange(((back + 1) * 127.5).round().to(torch.uint8), "c F H W -> F H W c").numpy()


def _by_distance(kind: str, video: UInt8[np.ndarray, "F H W 3"], truth: TruthClip) -> Scores:
    scores: Scores = {}
    for name, function in (("psnr", psnr), ("ssim", ssim)):
        values = function(video, truth.video)
        scores[f"{kind}/{name}"] = float(values[1:].mean())
        for first, last in frame_ranges(len(video)):
            scores[f"{kind}/{name}@{first}-{last}"] = float(values[first : last + 1].mean())
    return scores


def _progress(kind: str, video: UInt8[np.ndarray, "F H W 3"], truth: TruthClip) -> Scores:
    """Share of the requested path that the video covers."""
    return {f"{kind}/progress": progress(video, truth.video[0], truth.depth[0], truth.trajectory)}


def _true_consistency(kind: str, video: UInt8[np.ndarray, "F H W 3"], truth: TruthClip) -> Scores:
    """Color difference between nearby frames after a warp with the true depth and the requested cameras."""
    gap = min(HEADLINE_GAP, len(video) - 1)
    found = reprojection(replace(true_world(truth), video=video), gap)
    return {
        f"{kind}/photometric": finite(found.photometric),
        f"{kind}/photometric_ratio": finite(found.photometric_ratio),
    }
