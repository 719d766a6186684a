"""The joint refinement: cameras, scales of the pairs and focal length at once, depths eliminated exactly.

The errors of `residuals` are made small by Gauss-Newton steps. The depth that the pairs of a frame agree on at a pixel
is their weighted mean; with that mean put into the equations, cameras, scales and focal lengths are the only unknowns:
a small dense system. Axis legend: e pairs, p pixels, n unknowns, k unknowns that one frame's depths depend on.
"""

import numpy as np
from jaxtyping import Float64, Int64
from scipy.linalg import cho_factor, cho_solve

from fw_data.annotators.dust3r.alignment.clouds import AlignmentFailed, PairClouds
from fw_data.annotators.dust3r.alignment.motions import Projection, cross_matrices, projection_rows, rigid_step
from fw_data.annotators.dust3r.alignment.residuals import Residuals, measure
from fw_data.annotators.dust3r.alignment.start import State

_DAMPING = (1e-9, 1e-6, 1e-3, 1.0)  # the first one that leaves the equations solvable


def adjust(
    clouds: PairClouds, state: State, *, shared_focal: bool, iterations: int, tolerance: float
) -> tuple[Residuals, int]:
    """Reweighted Gauss-Newton until no camera moves; changes `state`. The errors at the end, and the steps made."""
    found = measure(clouds, state, None)
    for step in range(1, iterations + 1):
        move = _Equations(clouds, state, found, shared_focal=shared_focal).solve()
        _apply(state, move, clouds.frames)
        found = measure(clouds, state, found)
        if np.abs(move[: 6 * clouds.frames]).max() < tolerance:
            return found, step
    return found, iterations


class _Equations:
    """Hessian and gradient over 6 numbers per frame (turn, shift of world-to-camera), 1 per pair, 1 or f log-focals."""

    def __init__(self, clouds: PairClouds, state: State, found: Residuals, *, shared_focal: bool) -> None:
        self.clouds, self.found = clouds, found
        frames, pairs = clouds.frames, len(clouds.pairs)
        self.first, self.second = clouds.pairs.T
        self.scale_at = 6 * frames
        focal_at = self.scale_at + pairs
        unknowns = focal_at + (1 if shared_focal else frames)
        self.focal_index = np.full(frames, focal_at) if shared_focal else focal_at + np.arange(frames)
        self.hessian, self.gradient = np.zeros((unknowns, unknowns)), np.zeros(unknowns)
        self.focal_px = np.exp(state.log_focal)
        self.motion = _pair_motion_derivative(found)
        self.places = _places(self.first, self.second, self.scale_at)
        projection = projection_rows(found.moved, self.focal_px[self.second])
        self._add_first_across()
        self._add_second_across(projection)
        columns = self._depth_columns(projection)
        for frame in range(frames):
            self._add_along(frame, columns)

    def solve(self) -> Float64[np.ndarray, " n"]:
        """The step, with the first camera held; a little damping fixes the scale of the scene and lost frames.

        Raises:
            AlignmentFailed: the equations stay singular: nothing in the point maps holds the cameras.
        """
        inner = self.hessian[6:, 6:]
        diagonal = np.arange(len(inner))
        size = inner[diagonal, diagonal]
        for damping in _DAMPING:
            damped = inner.copy()
            damped[diagonal, diagonal] += damping * (size + size.mean())
            try:
                return np.concatenate([np.zeros(6), -cho_solve(cho_factor(damped), self.gradient[6:])])
            except np.linalg.LinAlgError:
                continue
        raise AlignmentFailed("the point maps do not hold the cameras: they may be constant, or contradict each other")

    def _add_first_across(self) -> None:
        """Projections of a first frame's points depend on the focal length alone."""
        across, index = self.found.across[0], self.focal_index[self.first]
        seen = across + self.clouds.offsets_px
        weight = self.found.across_weight[0] / self.found.across_px[0] ** 2
        np.add.at(self.hessian, (index, index), (weight * (seen**2).sum(-1)).sum(1))
        np.add.at(self.gradient, index, (weight * (seen * across).sum(-1)).sum(1))

    def _add_second_across(self, projection: Projection) -> None:
        """Projections of a second frame's points depend on the pair's motion (6), its scale and the focal length."""
        found, pairs = self.found, len(self.first)
        rows = np.empty((*found.across[1].shape, 9))
        rows[..., :6] = projection.rows
        rows[..., 6] = -(projection.rows[..., 3:] @ found.relative_translation[:, None, :, None])[..., 0]
        rows[..., 7] = projection.slope * self.focal_px[self.second, None, None]
        rows[..., 8] = found.across[1]
        rows *= np.sqrt(found.second_share * found.across_weight[1])[..., None, None] / found.across_px[1]
        rows = rows.reshape(pairs, -1, 9)
        gram = rows.swapaxes(1, 2) @ rows  # normal equations in local parameters
        # chain rule to the two cameras, scale and focal length
        local = np.zeros((pairs, 8, 14))
        local[:, :6, :12] = self.motion
        local[:, 6, 12] = local[:, 7, 13] = 1
        full = local.swapaxes(1, 2) @ gram[:, :8, :8] @ local
        slope = (local.swapaxes(1, 2) @ gram[:, :8, 8:])[..., 0]
        places = np.concatenate([self.places, self.focal_index[self.second][:, None]], axis=1)
        for pair in range(pairs):
            self.hessian[np.ix_(places[pair], places[pair])] += full[pair]
            self.gradient[places[pair]] += slope[pair]

    def _depth_columns(self, projection: Projection) -> Float64[np.ndarray, "e p 4"]:
        """Change of a second point's log-depth with two turns and the forward shift of the pair, and with its scale."""
        inverse = 1 / np.maximum(self.found.moved[..., 2], 1e-9)
        forward = self.found.relative_translation[:, 2:3]
        x, y = projection.slope[..., 0], projection.slope[..., 1]
        return np.stack([y, -x, inverse, 1 - forward * inverse], axis=-1)

    def _add_along(self, frame: int, columns: Float64[np.ndarray, "e p 4"]) -> None:
        """Log-depths of one frame against their mean, the mean eliminated."""
        found = self.found
        own, other = np.flatnonzero(self.first == frame), np.flatnonzero(self.second == frame)
        # 1. errors from the weighted mean log-depth of every pixel
        log_depth = np.concatenate([found.log_depth[0][own], found.log_depth[1][other]]) - found.agreed[frame]
        weights = [found.along_weight[side][its] / found.along[side] ** 2 for side, its in ((0, own), (1, other))]
        together = np.concatenate(weights)
        total = np.maximum(together.sum(0), 1e-12)
        residual = log_depth - (together * log_depth).sum(0) / total
        # 2. local system: a scale per first view, three motion parameters and a scale per second view; the rank-one
        #    terms of the eliminated mean couple them all (Schur complement of the depths)
        slopes = columns[other].swapaxes(1, 2)  # (pairs, 4, p)
        weighted = slopes * weights[1][:, None]
        stacked = np.concatenate([weights[0], weighted.reshape(-1, len(total))])
        system = -(stacked / total) @ stacked.T
        alone = np.arange(len(own))
        system[alone, alone] += weights[0].sum(1)
        blocks = weighted @ slopes.swapaxes(1, 2)
        moves = (weighted * residual[len(own) :, None]).sum(-1)
        right = np.concatenate([(weights[0] * residual[: len(own)]).sum(1), moves.reshape(-1)])
        # 3. chain rule from the local parameters to the unknowns, and into the global system
        touched = np.unique(np.concatenate([self.scale_at + own, self.places[other].reshape(-1)]))
        to_unknowns = np.zeros((len(right), len(touched)))
        to_unknowns[alone, np.searchsorted(touched, self.scale_at + own)] = 1
        for number, pair in enumerate(other):
            at = slice(len(own) + 4 * number, len(own) + 4 * number + 4)
            system[at, at] += blocks[number]
            where = np.searchsorted(touched, self.places[pair])
            to_unknowns[at][:3, where[:12]] = self.motion[pair][[0, 1, 5]]
            to_unknowns[at][3, where[12]] = 1
        self.hessian[np.ix_(touched, touched)] += to_unknowns.T @ system @ to_unknowns
        self.gradient[touched] += to_unknowns.T @ right


def _pair_motion_derivative(found: Residuals) -> Float64[np.ndarray, "e 6 12"]:
    """Change of each pair's motion with small motions of its two cameras (first, second; turn before shift)."""
    rotation = found.relative_rotation
    motion = np.zeros((len(rotation), 6, 12))
    motion[:, :3, :3] = motion[:, 3:, 3:6] = -rotation
    motion[:, 3:, :3] = -cross_matrices(found.relative_translation) @ rotation
    motion[:, :, 6:] = np.eye(6)
    return motion


def _places(
    first: Int64[np.ndarray, " e"], second: Int64[np.ndarray, " e"], scale_at: int
) -> Int64[np.ndarray, "e 13"]:
    """Indices of the unknowns of each pair: first camera, second camera, scale."""
    six = np.arange(6)
    scale = scale_at + np.arange(len(first))[:, None]
    return np.concatenate([6 * first[:, None] + six, 6 * second[:, None] + six, scale], axis=1)


def _apply(state: State, move: Float64[np.ndarray, " n"], frames: int) -> None:
    turn, shift = rigid_step(move[: 6 * frames].reshape(frames, 6))
    state.rotation_w2c[:] = turn @ state.rotation_w2c
    state.translation_w2c[:] = (turn @ state.translation_w2c[..., None])[..., 0] + shift
    pairs = len(state.log_scale)
    state.log_scale += move[6 * frames : 6 * frames + pairs]
    state.log_focal += move[6 * frames + pairs :]
