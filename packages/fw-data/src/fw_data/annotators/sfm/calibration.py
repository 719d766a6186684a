"""Shutter, lens, principal point and focal length, each estimated only as far as the footage determines it.

Costs are mean Cauchy costs of the observations. Observations of one point in neighboring frames err together, so the
evidence of many of them counts as that of a few (`Noise`). Axis legend: o observations.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from scipy.spatial.transform import Rotation

from fw_data.annotators.sfm.bundle import adjust
from fw_data.annotators.sfm.rolling_shutter import MAX_READOUT, estimate_readout, residuals_px
from fw_data.annotators.sfm.scene import SparseScene

LOSS_PX = 0.5
"""Scale of the Cauchy loss where positions are refined."""
MAX_ERROR_PX = 20.0
"""Larger residuals, and those of points behind a camera, cost as much as this one."""
FOCAL_RANGE = (0.35, 3.0)
"""Plausible focal lengths, in long sides (110 to 19 degrees)."""
USUAL_FOCAL = 0.9
"""In long sides: about 58 degrees, between phones and camcorders."""
FOCAL_SPREAD = 0.35
"""Standard deviation of the logarithm of the focal lengths that cameras have (two thirds: 43 to 76 degrees)."""
FOCAL_EVIDENCE = 1 / 8
"""Independent observations per observation against the prior of the focal length. Standard errors that are clustered by
scene point are 3.8 to 6.7 times smaller than with REFINED (seven clips, street and kitchen), so it may be more."""
FOCAL_PROBE = 1.06
PROBE_ITERATIONS = 12
SETTLE_ITERATIONS = 40
RADIAL_SPREAD = 0.03
"""Standard deviation of the radial coefficients that cameras have, but for wide-angle lenses."""
WIDE_ANGLE = 0.1
"""Part of the videos with a wide-angle lens."""
WIDE_SPREAD = 0.2
"""Typical radial coefficient of those (the scale of a Cauchy distribution)."""
PRINCIPAL_SPREAD = 0.02
"""In long sides."""
PRINCIPAL_COST = 6.0
"""Gain that an off-center principal point needs at least: one video in a few hundred is cut out of a larger image."""
NEARLY_AS_LIKELY = 1.0
"""Difference of logarithms up to which an off-center principal point may still win together with a lens."""
MAX_PRINCIPAL = 0.3
"""Of the width or height; further off, something else is wrong."""
MAX_RADIAL = 0.15
"""Distortion beyond which images have to be undistorted."""
LENS_ITERATIONS = 200
"""An ideal lens hides a strong distortion in the focal length; the way back is long."""
MIN_READOUT = 0.03
SHUTTER_COST = 2.0
"""Gain that a rolling shutter needs at least. Six clips with a global shutter gain up to 1.3, 24 of a camera with a
rolling shutter 2 to 200."""


class Noise(NamedTuple):
    """What is known about the errors of observations."""

    loss_px: float
    """Scale of the Cauchy loss."""
    evidence: float
    """Independent observations per observation."""


MATCHES = Noise(1.0, 1 / 8)
"""Features that were matched. With this evidence, and that of REFINED, the radial coefficients that short clips of one
camera fit are as far from its own as they claim to be."""
REFINED = Noise(LOSS_PX, 1 / 30)
"""Refined positions. Those of one point in neighboring frames err together."""


def robust_cost(scene: SparseScene, loss_px: float = LOSS_PX) -> float:
    """Mean Cauchy cost of the observations, in units of `loss_px` squared."""
    return mean_cost(residuals_px(scene), loss_px)


def mean_cost(residual_px: Float64[np.ndarray, " o"], loss_px: float) -> float:
    """Mean Cauchy cost of residuals."""
    return float(np.log1p((np.minimum(residual_px, MAX_ERROR_PX) / loss_px) ** 2).mean())


def fit_shutter(scene: SparseScene, threads: int) -> SparseScene:
    """Alternate readout and adjustment until the readout rests; a global shutter stays when the gain is small."""
    known = scene.readout != (0.0, 0.0)
    start = found = scene if known else adjust(scene, loss_px=LOSS_PX, max_iterations=15, threads=threads)
    for _ in range(1 if known else 2):
        readout = estimate_readout(found)
        if np.abs(np.array(readout) - np.array(found.readout)).max() < MIN_READOUT:
            break
        found = adjust(replace(found, readout=readout), loss_px=LOSS_PX, max_iterations=15, threads=threads)
    if found is start:
        return scene
    plausible = max(map(abs, found.readout)) < 0.95 * MAX_READOUT
    pays = known or misfit(start, REFINED) - misfit(found, REFINED) > SHUTTER_COST
    return found if plausible and pays else replace(scene, readout=(0.0, 0.0))


@dataclass(frozen=True, kw_only=True)
class LensFit:
    """A scene with the most likely lens and principal point."""

    scene: SparseScene
    focal_spread: float
    """Standard deviation of the logarithm of the focal length for want of knowing the radial coefficient."""


def fit_lens(scene: SparseScene, threads: int, noise: Noise = REFINED) -> LensFit:
    """Fit one radial coefficient, and the principal point where that pays, together with everything else.

    Few views tell a weak lens from a slightly different focal length only roughly, and the best fit takes too much of
    it: the most likely coefficient is taken, and weak ones are more usual. A principal point off the center must gain
    more than it is unusual. Strong lenses and crops are rare, but not as rare as a normal distribution would have
    them: both priors have the tails of Cauchy's.
    """

    def fit(start: SparseScene, radial: bool, principal: bool) -> SparseScene:
        return adjust(
            start,
            loss_px=noise.loss_px,
            refine_radial=radial,
            refine_principal=principal,
            max_iterations=LENS_ITERATIONS,
            threads=threads,
        )

    plain = fit(replace(scene, radial=0.0), False, False)
    moved = fit(plain, False, True)
    tried = [(plain, False)]
    if unlikeliness(moved, noise) < unlikeliness(plain, noise) + NEARLY_AS_LIKELY:
        tried.append((moved, True))
    found: list[LensFit] = []
    for ideal, principal in tried:
        bent = fit(ideal, True, principal)
        other = ideal
        if abs(bent.radial) < RADIAL_SPREAD / 2:  # too near to tell how the cost rises
            other = fit(replace(bent, radial=bent.radial - RADIAL_SPREAD), False, principal)
        share, spread = _likely_share(bent, other, noise)
        likely = fit(_between(ideal, bent, share), False, principal)
        possible = [fitted for fitted in (likely, ideal, bent) if fitted is plain or _is_possible(fitted)]
        found += [LensFit(scene=fitted, focal_spread=spread) for fitted in possible]
    return min(found, key=lambda one: unlikeliness(one.scene, noise))


def _likely_share(bent: SparseScene, other: SparseScene, noise: Noise) -> tuple[float, float]:
    """Part of a fitted radial coefficient that is most likely, 0 to 1, and what it leaves unknown of the focal length
    (standard deviation of the logarithm): the cost is a parabola through the fit and one with another coefficient."""
    away = other.radial - bent.radial
    known = 2 * max(misfit(other, noise) - misfit(bent, noise), 0.0) / away**2
    radial = np.linspace(-1, 1, 4001) * max(1.0, 2 * abs(bent.radial))
    cost = 0.5 * known * (radial - bent.radial) ** 2 + oddity_of_radial(radial)
    weight = np.exp(cost.min() - cost)
    spread = np.sqrt(np.cov(radial, aweights=weight, ddof=0)) * abs(np.log(other.focal_px / bent.focal_px) / away)
    share = np.linspace(0, 1, 101)
    cost = 0.5 * known * ((share - 1) * bent.radial) ** 2 + oddity_of_radial(share * bent.radial)
    return float(share[np.argmin(cost)]), float(np.fmin(spread, FOCAL_SPREAD))


def unlikeliness(scene: SparseScene, noise: Noise) -> float:
    """Negative logarithm of the posterior of lens and principal point, to compare fits of the same observations."""
    return misfit(scene, noise) + oddity(scene)


def misfit(scene: SparseScene, noise: Noise) -> float:
    """Negative log likelihood of the observations. Their noise is not known, so only ratios of costs count."""
    return misfit_of(residuals_px(scene), noise)


def misfit_of(residual_px: Float64[np.ndarray, " o"], noise: Noise) -> float:
    """`misfit` of residuals."""
    return float(noise.evidence * len(residual_px) * np.log(max(mean_cost(residual_px, noise.loss_px), 1e-9)))


def oddity(scene: SparseScene) -> float:
    """Negative logarithm of how usual lens and principal point are; 0 for an ideal lens and a centered point."""
    principal = np.hypot(*scene.principal_px) / max(scene.width, scene.height)
    of_principal = PRINCIPAL_COST + np.log1p((principal / PRINCIPAL_SPREAD) ** 2) if principal > 0 else 0.0
    return float(oddity_of_radial(np.array([scene.radial]))[0] + of_principal)


def oddity_of_radial(radial: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """Negative logarithm of how usual radial coefficients are, beside none: a normal distribution with wide tails."""
    usual, wide = (1 - WIDE_ANGLE) / np.sqrt(2 * np.pi) / RADIAL_SPREAD, WIDE_ANGLE / np.pi / WIDE_SPREAD
    density = usual * np.exp(-0.5 * (radial / RADIAL_SPREAD) ** 2) + wide / (1 + (radial / WIDE_SPREAD) ** 2)
    return -np.log(density / (usual + wide))


def _is_possible(scene: SparseScene) -> bool:
    """Whether focal length and principal point are plausible. A lens may be of any strength: it is refused later."""
    size = np.array([scene.width, scene.height])
    off = np.abs(scene.principal_px) / size
    return bool(FOCAL_RANGE[0] < scene.focal_px / size.max() < FOCAL_RANGE[1] and off.max() < MAX_PRINCIPAL)


def settle_focal(scene: SparseScene, threads: int, *, lens_spread: float = 0.0) -> tuple[SparseScene, float]:
    """Maximum a posteriori focal length from the footage and a prior, and the standard deviation of its logarithm.

    The given focal length must be the one that the footage fits best. Its cost a little below and above, everything
    else adjusted, tells how well it is known; with the log-normal prior this is one step of Newton's method. Where
    the motion determines the focal length nothing moves; where it does not (a camera that moves straight ahead, one
    that hardly turns) the prior wins. An off-center principal point follows.
    The standard deviation is the cautious one: with the evidence of REFINED, and with what the lens leaves unknown,
    `lens_spread`. A weak lens that is left out, or found wrong, moves the focal length by more than noise does.
    """

    def with_focal(focal_px: float, max_iterations: int) -> SparseScene:
        return adjust(
            stretched(scene, focal_px),
            loss_px=LOSS_PX,
            refine_focal=False,
            refine_principal=scene.principal_px != (0.0, 0.0),
            max_iterations=max_iterations,
            threads=threads,
        )

    factors = (1 / FOCAL_PROBE, 1.0, FOCAL_PROBE)
    below, here, above = (robust_cost(with_focal(scene.focal_px * f, PROBE_ITERATIONS)) for f in factors)
    known = len(scene.obs_xy) * max((below + above) / max(here, 1e-9) - 2, 0.0) / np.log(FOCAL_PROBE) ** 2
    pull = 1 / FOCAL_SPREAD**2
    usual = np.log(USUAL_FOCAL * max(scene.width, scene.height))
    step = pull * (usual - np.log(scene.focal_px)) / (FOCAL_EVIDENCE * known + pull)
    variance = 1 / (REFINED.evidence * known + pull) + lens_spread**2
    settled = with_focal(scene.focal_px * np.exp(step), SETTLE_ITERATIONS)
    return settled, float(min(np.sqrt(variance), FOCAL_SPREAD))


def stretched(scene: SparseScene, focal_px: float) -> SparseScene:
    """The scene with another focal length, longer or shorter along the mean view as the focal length is.

    Cameras that look in one direction see the same then, so adjusting the rest takes few steps.
    """
    view = scene.pose_w2c[scene.posed, 2, :3].sum(axis=0)
    view /= max(float(np.linalg.norm(view)), 1e-9)
    stretch = np.eye(3) + (focal_px / scene.focal_px - 1) * np.outer(view, view)
    pose = scene.pose_w2c.copy()
    pose[:, :3, 3] = -np.einsum("fij,fj->fi", pose[:, :3, :3], scene.centers @ stretch)
    pose[~scene.posed] = np.eye(4)
    return replace(scene, focal_px=float(focal_px), pose_w2c=pose, points=scene.points @ stretch)


def _between(scene: SparseScene, other: SparseScene, share: float) -> SparseScene:
    """The state at a share of the way from one fit of the same observations to another.

    The best fits for similar cameras lie along a line, nearly: a start there saves most of the steps.
    """
    turn = Rotation.from_matrix(other.pose_w2c[:, :3, :3] @ scene.pose_w2c[:, :3, :3].transpose(0, 2, 1))
    rotation = Rotation.from_rotvec(share * turn.as_rotvec()).as_matrix() @ scene.pose_w2c[:, :3, :3]
    center = scene.centers + share * (other.centers - scene.centers)
    pose = scene.pose_w2c.copy()
    pose[:, :3, :3] = rotation
    pose[:, :3, 3] = -np.einsum("fij,fj->fi", rotation, center)
    return replace(
        scene,
        focal_px=scene.focal_px * (other.focal_px / scene.focal_px) ** share,
        radial=scene.radial + share * (other.radial - scene.radial),
        principal_px=(
            scene.principal_px[0] + share * (other.principal_px[0] - scene.principal_px[0]),
            scene.principal_px[1] + share * (other.principal_px[1] - scene.principal_px[1]),
        ),
        pose_w2c=pose,
        points=scene.points + share * (other.points - scene.points),
    )
