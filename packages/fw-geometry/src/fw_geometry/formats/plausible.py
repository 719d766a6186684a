"""Whether K belongs to images of a size.

Axis legend: pixel centers at +0.5, K in pixels.
"""

import numpy as np
from jaxtyping import Float

_CENTER = (0.85, 1.18)  # principal point over half the size: a factor outside of it is another image size
_SAME_FACTOR = 0.1
_MARGIN = 0.2


def foreign_size(K: Float[np.ndarray, "f 3 3"], width: int, height: int) -> str | None:
    """Why K cannot be that of width x height images, with the factor between the sizes; None if it can.

    The principal point of a camera is near the center of its images. K of an image twice as large has it at the corner.
    """
    for frame, (cx, cy) in enumerate(K[:, :2, 2].tolist()):
        across, down = 2 * cx / width, 2 * cy / height
        factor = (across + down) / 2
        if max(abs(cx), abs(cy)) <= 1:
            return (
                f"the principal point of frame {frame} is ({cx:g}, {cy:g}) in a {width}x{height} image: K is divided "
                "by the image size or has no principal point; give it in pixels"
            )
        if abs(across - down) <= _SAME_FACTOR * factor and not _CENTER[0] <= factor <= _CENTER[1]:
            return (
                f"K of frame {frame} belongs to images of about {round(2 * cx)}x{round(2 * cy)}, {factor:.3g} times "
                f"{width}x{height}: its principal point is ({cx:g}, {cy:g})"
            )
        if not (_MARGIN * width <= cx <= (1 - _MARGIN) * width and _MARGIN * height <= cy <= (1 - _MARGIN) * height):
            return (
                f"the principal point of frame {frame}, ({cx:g}, {cy:g}), is far from the center of a "
                f"{width}x{height} image: {across:.3g} and {down:.3g} times its distance from the corner"
            )
    return None
