"""Small vector algebra on rows, written for speed: numpy sums over an axis of three slowly.

Axis legend: r rows, d components.
"""

import numpy as np
from jaxtyping import Float


def dot(a: Float[np.ndarray, "*r d"], b: Float[np.ndarray, "*#r d"]) -> Float[np.ndarray, "*r"]:
    """Inner product of matching rows."""
    return np.einsum("...d,...d->...", a, b)


def unit(a: Float[np.ndarray, "*r d"]) -> Float[np.ndarray, "*r d"]:
    """Rows scaled to length one; zero rows stay zero."""
    return a / np.maximum(np.sqrt(dot(a, a)), 1e-12)[..., None].astype(a.dtype)
