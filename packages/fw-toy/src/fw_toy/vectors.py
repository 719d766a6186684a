"""Small vector algebra on rows, written for speed: numpy sums over an axis of three slowly.

Axis legend: r rows, d components.
"""

import numpy as np
from jaxtyping import Float


def dot(a: Float[np.ndarray, "*r d"], b: Float[np.ndarray, "*#r d"]) -> Float[np.ndarray, "*r"]:
    """Inner product of matching rows."""
    return np.asarray(np.einsum("...d,...d->...", a, b))


def unit(a: Float[np.ndarray, "*r d"]) -> Float[np.ndarray, "*r d"]:
    """Rows scaled to length one; zero rows stay zero."""
    return a / np.maximum(np.asarray(np.sqrt(dot(a, a))), 1e-12)[..., None].astype(a.dtype)


def cross(a: Float[np.ndarray, "*r 3"], b: Float[np.ndarray, "*#r 3"]) -> Float[np.ndarray, "*r 3"]:
    """Cross product of matching rows."""
    return np.stack(
        [
            a[..., 1] * b[..., 2] - a[..., 2] * b[..., 1],
            a[..., 2] * b[..., 0] - a[..., 0] * b[..., 2],
            a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0],
        ],
        -1,
    )
