"""Shutter, lens, principal point and focal length, each estimated only as far as the footage determines it.

Costs are mean Cauchy costs of the observations. Observations of one point in neighboring frames err together, so the
evidence of many of them counts as that of a few (`EVIDENCE`). Axis legend: o observations.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Float64
from scipy.spatial.transform import Rotation

from fw_data.annotators.sfm.bundle import adjust
from fw_data.annotators.sfm.rolling_shutter import MAX_READOUT, estimate_readout, residuals_px
from fw_data.annotators.sfm.scene import SparseScene

LOSS_PX = 0.5
MAX_ERROR_PX = 20.0
"""Larger residuals, and those of points behind a camera, cost as much as this one."""
EVIDENCE = 1 / 15
"""Independent observations per observation."""
FOCAL_RANGE = (0.35, 3.0)
"""Plausible focal lengths, in long sides (110 to 19 degrees)."""
USUAL_FOCAL = 0.9
"""In long sides: about 58 degrees, between phones and camcorders."""
FOCAL_SPREAD = 0.35
"""Standard deviation of the logarithm of the focal lengths that cameras have (two thirds: 43 to 76 degrees)."""
FOCAL_EVIDENCE = 1 / 4
"""Independent observations per observation against the prior of the focal length. Standard errors that are clustered by
scene point are 3.8 to 6.7 times smaller than with EVIDENCE (seven clips, street and kitchen), so it may be more."""
FOCAL_PROBE = 1.06
PROBE_ITERATIONS = 25
MAX_FOCAL_STEP = 0.25
MAX_FOCAL_STEPS = 5
RADIAL_SPREAD = 0.03
PRINCIPAL_SPREAD = 0.02
"""In long sides."""
PRINCIPAL_COST = 6.0
"""Gain that an off-center principal point needs at least: one video in a few hundred is cut out of a larger image."""
MAX_PRINCIPAL = 0.3
"""Of the width or height; further off, something else is wrong."""
MAX_RADIAL = 0.15
"""Distortion beyond which images have to be undistorted."""
LENS_ITERATIONS = 200
"""An ideal lens hides a strong distortion in the focal length; the way back is long."""
MIN_READOUT = 0.03
SHUTTER_GAIN = 0.97
"""A rolling shutter must bring the robust cost below this part of what a global one leaves."""


def robust_cost(scene: SparseScene, loss_px: float = LOSS_PX) -> float:
    """Mean Cauchy cost of the observations, in units of `loss_px` squared."""
    return mean_cost(residuals_px(scene), loss_px)


def mean_cost(residual_px: Float64[np.ndarray, " o"], loss_px: float) -> float:
    """Mean Cauchy cost of residuals."""
    return float(np.log1p((np.minimum(residual_px, MAX_ERROR_PX) / loss_px) ** 2).mean())


def fit_shutter(scene: SparseScene, threads: int, steps: int = 4) -> SparseScene:
    """Alternate readout and adjustment until the readout rests; a global shutter stays when the gain is small."""
    start = scene
    for _ in range(steps):
        readout = estimate_readout(scene)
        change = np.array(readout) - np.array(scene.readout)
        if np.abs(change).max() < MIN_READOUT:
            break
        # Points give way to the shutter as poses do, so each estimate falls short of the answer: step past it.
        stepped = np.clip(np.array(scene.readout) + 1.6 * change, -MAX_READOUT, MAX_READOUT)
        scene = replace(scene, readout=(float(stepped[0]), float(stepped[1])))
        scene = adjust(scene, loss_px=LOSS_PX, max_iterations=15, threads=threads)
    plausible = max(map(abs, scene.readout)) < 0.95 * MAX_READOUT
    pays = start.readout != (0.0, 0.0) or robust_cost(scene) < SHUTTER_GAIN * robust_cost(start)
    return scene if plausible and pays else replace(start, readout=(0.0, 0.0))


def fit_lens(scene: SparseScene, threads: int, loss_px: float = LOSS_PX) -> SparseScene:
    """Fit one radial coefficient, the principal point, or both, together with everything else.

    Lens and center stay as they are unless the gain outweighs how unusual the others are. Strong lenses and crops are
    rare, but not as rare as a normal distribution would have them: the priors have the tails of Cauchy's.
    """
    plain = adjust(scene, loss_px=loss_px, max_iterations=LENS_ITERATIONS, threads=threads)
    fits = [
        adjust(
            plain,
            loss_px=loss_px,
            refine_radial=radial,
            refine_principal=principal,
            max_iterations=LENS_ITERATIONS,
            threads=threads,
        )
        for radial, principal in ((True, False), (False, True), (True, True))
    ]
    possible = [fit for fit in fits if _is_possible(fit) and oddity(fit) != oddity(plain)]
    best = min([plain, *possible], key=lambda fit: unlikeliness(fit, loss_px))
    return scene if best is plain else best


def unlikeliness(scene: SparseScene, loss_px: float) -> float:
    """Negative logarithm of the posterior of lens and principal point, to compare fits of the same observations."""
    return EVIDENCE * len(scene.obs_xy) * robust_cost(scene, loss_px) + oddity(scene)


def oddity(scene: SparseScene) -> float:
    """Negative logarithm of how usual lens and principal point are; 0 for an ideal lens and a centered point."""
    principal = np.hypot(*scene.principal_px) / max(scene.width, scene.height)
    radial = abs(scene.radial)
    return float(
        (radial > 0) * (1 + np.log1p((radial / RADIAL_SPREAD) ** 2))
        + (principal > 0) * (PRINCIPAL_COST + np.log1p((principal / PRINCIPAL_SPREAD) ** 2))
    )


def _is_possible(scene: SparseScene) -> bool:
    """Whether focal length and principal point are plausible. A lens may be of any strength: it is refused later."""
    size = np.array([scene.width, scene.height])
    off = np.abs(scene.principal_px) / size
    return bool(FOCAL_RANGE[0] < scene.focal_px / size.max() < FOCAL_RANGE[1] and off.max() < MAX_PRINCIPAL)


def settle_focal(scene: SparseScene, threads: int, *, refine_radial: bool = False) -> tuple[SparseScene, float]:
    """Maximum a posteriori focal length from the footage and a prior, and the standard deviation of its logarithm.

    The cost is probed a little below and above the focal length, everything else adjusted; with the log-normal prior
    this is one step of Newton's method, repeated while steps are long. Where the motion determines the focal length
    nothing moves; where it does not (a camera that moves straight ahead, one that hardly turns) the prior wins.
    A lens (on request) and an off-center principal point follow: they share in what is known about the focal length.
    The standard deviation is the cautious one: with EVIDENCE, and as if the radial coefficient were free within its
    prior. A weak lens that is left out, or found wrong, moves the focal length by more than noise does.
    """

    def with_focal(
        start: SparseScene, focal_px: float, max_iterations: int = 40, refine_radial: bool = refine_radial
    ) -> SparseScene:
        return adjust(
            replace(start, focal_px=float(focal_px)),
            loss_px=LOSS_PX,
            refine_focal=False,
            refine_radial=refine_radial,
            refine_principal=scene.principal_px != (0.0, 0.0),
            max_iterations=max_iterations,
            threads=threads,
        )

    count = FOCAL_EVIDENCE * len(scene.obs_xy)
    pull = 1 / FOCAL_SPREAD**2
    usual = np.log(USUAL_FOCAL * max(scene.width, scene.height))
    width = np.log(FOCAL_PROBE)
    below = above = scene
    for _ in range(MAX_FOCAL_STEPS):
        below = with_focal(scene, scene.focal_px / FOCAL_PROBE, PROBE_ITERATIONS)
        above = with_focal(_towards(scene, below, -1.0), scene.focal_px * FOCAL_PROBE, PROBE_ITERATIONS)
        costs = [count * robust_cost(probe) for probe in (below, scene, above)]
        slope = (costs[2] - costs[0]) / (2 * width) + pull * (np.log(scene.focal_px) - usual)
        known = max(costs[0] + costs[2] - 2 * costs[1], 0.0) / width**2
        step = float(np.clip(-slope / (known + pull), -MAX_FOCAL_STEP, MAX_FOCAL_STEP))
        start = _towards(scene, above if step > 0 else below, min(1.0, abs(step) / width))
        scene = with_focal(start, scene.focal_px * np.exp(step))
        if abs(step) < width:
            break
    tried = [
        with_focal(start, scene.focal_px * factor, PROBE_ITERATIONS, True)
        for start, factor in ((below, 1 / FOCAL_PROBE), (scene, 1.0), (above, FOCAL_PROBE))
    ]
    costs = [
        EVIDENCE * len(scene.obs_xy) * robust_cost(probe) + 0.5 * (probe.radial / RADIAL_SPREAD) ** 2 for probe in tried
    ]
    known = max(costs[0] + costs[2] - 2 * costs[1], 0.0) / width**2
    return scene, float(1 / np.sqrt(known + pull))


def _towards(scene: SparseScene, other: SparseScene, share: float) -> SparseScene:
    """Poses and points moved by a share of the way to those of another state; a negative one leads away from it.

    Solutions for similar focal lengths lie along a line, nearly: a start there saves most of the steps.
    """
    turn = Rotation.from_matrix(other.pose_w2c[:, :3, :3] @ scene.pose_w2c[:, :3, :3].transpose(0, 2, 1))
    rotation = Rotation.from_rotvec(share * turn.as_rotvec()).as_matrix() @ scene.pose_w2c[:, :3, :3]
    center = scene.centers + share * (other.centers - scene.centers)
    pose = scene.pose_w2c.copy()
    pose[:, :3, :3] = rotation
    pose[:, :3, 3] = -np.einsum("fij,fj->fi", rotation, center)
    return replace(scene, pose_w2c=pose, points=scene.points + share * (other.points - scene.points))
