"""Shutter, lens, principal point and focal length, each estimated only as far as the footage determines it.

Costs are mean Cauchy costs of the observations. Errors of one point in neighboring frames are correlated, so
likelihoods count fewer observations than there are (`Noise`). Axis legend: o observations.
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
"""Effective share of independent observations when they are weighed against the prior of the focal length. Larger than
that of REFINED: standard errors clustered by scene point are 3.8 to 6.7 times smaller than that one implies (seven
clips, street and kitchen)."""
FOCAL_PROBE = 1.06
PROBE_ITERATIONS = 12
SETTLE_ITERATIONS = 40
RADIAL_SPREAD = 0.03
"""Standard deviation of the radial coefficient over cameras without a wide-angle lens."""
WIDE_ANGLE_SHARE = 0.1
"""Prior probability of a wide-angle lens."""
WIDE_SPREAD = 0.2
"""Scale of the Cauchy distribution of the radial coefficient of wide-angle lenses."""
PRINCIPAL_SPREAD = 0.02
"""In long sides."""
PRINCIPAL_COST = 6.0
"""Gain that an off-center principal point needs at least: one video in a few hundred is cut out of a larger image."""
PRINCIPAL_MARGIN = 1.0
"""An off-center principal point that is less likely than a centered one by more than this (natural log) is not tried
together with a lens."""
MAX_PRINCIPAL = 0.3
"""Of the width or height; further off, something else is wrong."""
MAX_RADIAL = 0.15
"""Distortion beyond which images have to be undistorted."""
LENS_ITERATIONS = 200
"""An ideal lens hides a strong distortion in the focal length; the way back is long."""
MIN_READOUT = 0.03
SHUTTER_COST = 2.0
"""Least gain in log likelihood for which a rolling shutter is kept, over a global one and over an off-center principal
point. Six clips with a global shutter gain up to 1.3; 24 of a camera with a rolling shutter gain 2.3 to 200."""


class Noise(NamedTuple):
    """How far the errors of observations can be trusted to be small and independent."""

    loss_px: float
    """Scale of the Cauchy loss."""
    evidence: float
    """Effective share of independent observations."""


MATCHES = Noise(1.0, 1 / 8)
"""Feature matches. The squared error of the radial coefficient is 1.1 of its variance, mean over 19 short clips of one
camera."""
REFINED = Noise(LOSS_PX, 1 / 30)
"""Refined positions, whose errors are correlated from frame to frame. The same ratio is 0.3 over 20 clips: cautious."""


def robust_cost(scene: SparseScene, loss_px: float = LOSS_PX) -> float:
    """Mean Cauchy cost of the observations, in units of `loss_px` squared."""
    return mean_cost(residuals_px(scene), loss_px)


def mean_cost(residual_px: Float64[np.ndarray, " o"], loss_px: float) -> float:
    """Mean Cauchy cost of residuals."""
    return float(np.log1p((np.minimum(residual_px, MAX_ERROR_PX) / loss_px) ** 2).mean())


def fit_shutter(scene: SparseScene, threads: int) -> SparseScene:
    """Alternate readout and adjustment until the readout rests.

    A global shutter stays when the gain is small, or an off-center principal point explains the footage better: where a
    camera turns one way, each of the two takes up part of the other.
    """
    known = scene.readout != (0.0, 0.0)
    start = found = scene if known else adjust(scene, loss_px=LOSS_PX, max_iterations=15, threads=threads)
    for _ in range(1 if known else 2):
        readout = estimate_readout(found)
        if np.abs(np.array(readout) - np.array(found.readout)).max() < MIN_READOUT:
            break
        found = adjust(replace(found, readout=readout), loss_px=LOSS_PX, max_iterations=15, threads=threads)
    if found is start:
        return scene
    without = replace(scene, readout=(0.0, 0.0))
    if max(map(abs, found.readout)) >= 0.95 * MAX_READOUT:
        return without
    if known:
        return found
    moved = adjust(start, loss_px=LOSS_PX, refine_principal=True, max_iterations=15, threads=threads)
    rival = min(neg_log_posterior(one, REFINED) for one in (start, moved))
    return found if rival - neg_log_posterior(found, REFINED) > SHUTTER_COST else without


@dataclass(frozen=True, kw_only=True)
class LensFit:
    """A scene with the most likely lens and principal point."""

    scene: SparseScene
    focal_spread: float
    """Standard deviation of log focal length that the uncertainty of the radial coefficient causes."""


def fit_lens(scene: SparseScene, threads: int, noise: Noise = REFINED) -> LensFit:
    """Maximum a posteriori radial coefficient and principal point, with everything else adjusted.

    With few views, weak distortion and focal length trade off, and the best fit overestimates the distortion; the prior
    prefers weak coefficients. An off-center principal point is kept only where it is more likely than a centered one.
    Both priors have the heavy tails of a Cauchy distribution, so strong lenses and crops remain possible.
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
    if neg_log_posterior(moved, noise) < neg_log_posterior(plain, noise) + PRINCIPAL_MARGIN:
        tried.append((moved, True))
    found: list[LensFit] = []
    for ideal, principal in tried:
        bent = fit(ideal, True, principal)
        other = ideal
        if abs(bent.radial) < RADIAL_SPREAD / 2:  # too near to tell how the cost rises
            other = fit(replace(bent, radial=bent.radial - RADIAL_SPREAD), False, principal)
        share, spread = _most_likely_share(bent, other, noise)
        likely = fit(_between(ideal, bent, share), False, principal)
        possible = [fitted for fitted in (likely, ideal, bent) if fitted is plain or _is_possible(fitted)]
        found += [LensFit(scene=fitted, focal_spread=spread) for fitted in possible]
    return min(found, key=lambda one: neg_log_posterior(one.scene, noise))


def _most_likely_share(bent: SparseScene, other: SparseScene, noise: Noise) -> tuple[float, float]:
    """Share of the fitted radial coefficient at the posterior maximum (0 to 1), and `focal_spread`.

    The negative log likelihood is taken as a parabola with its minimum at `bent` that passes through `other`.
    """
    away = other.radial - bent.radial
    known = 2 * max(neg_log_likelihood(other, noise) - neg_log_likelihood(bent, noise), 0.0) / away**2
    radial = np.linspace(-1, 1, 4001) * max(1.0, 2 * abs(bent.radial))
    cost = 0.5 * known * (radial - bent.radial) ** 2 + radial_neg_log_prior(radial)
    weight = np.exp(cost.min() - cost)
    spread = np.sqrt(np.cov(radial, aweights=weight, ddof=0)) * abs(np.log(other.focal_px / bent.focal_px) / away)
    share = np.linspace(0, 1, 101)
    cost = 0.5 * known * ((share - 1) * bent.radial) ** 2 + radial_neg_log_prior(share * bent.radial)
    return float(share[np.argmin(cost)]), float(np.fmin(spread, FOCAL_SPREAD))


def neg_log_posterior(scene: SparseScene, noise: Noise) -> float:
    """Negative log posterior of lens and principal point; compares fits of the same observations."""
    return neg_log_likelihood(scene, noise) + neg_log_prior(scene)


def neg_log_likelihood(scene: SparseScene, noise: Noise) -> float:
    """Negative log likelihood of the observations, up to a constant, with the noise level profiled out."""
    return residual_neg_log_likelihood(residuals_px(scene), noise)


def residual_neg_log_likelihood(residual_px: Float64[np.ndarray, " o"], noise: Noise) -> float:
    """`neg_log_likelihood` of residuals."""
    return float(noise.evidence * len(residual_px) * np.log(max(mean_cost(residual_px, noise.loss_px), 1e-9)))


def neg_log_prior(scene: SparseScene) -> float:
    """Negative log prior of lens and principal point; 0 for an ideal lens and a centered point."""
    principal = np.hypot(*scene.principal_px) / max(scene.width, scene.height)
    of_principal = PRINCIPAL_COST + np.log1p((principal / PRINCIPAL_SPREAD) ** 2) if principal > 0 else 0.0
    return float(radial_neg_log_prior(np.array([scene.radial]))[0] + of_principal)


def radial_neg_log_prior(radial: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """Negative log prior of radial coefficients, 0 for none: normal with heavy tails."""
    usual, wide = (1 - WIDE_ANGLE_SHARE) / np.sqrt(2 * np.pi) / RADIAL_SPREAD, WIDE_ANGLE_SHARE / np.pi / WIDE_SPREAD
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
    """The scene with another focal length, scaled along the mean viewing direction by the ratio of focal lengths.

    Cameras that all look in the same direction see the same image, so adjusting the rest takes few iterations.
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
