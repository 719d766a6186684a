"""The size of the images that GMFlow is given; imports no network."""

LONG_SIDE = 256
"""Size at which the flow is found."""
UNIT = 8
"""Sides of the images are multiples of this."""


def input_size(height: int, width: int) -> tuple[int, int]:
    """Height and width for images of this size: LONG_SIDE on the long side, also where they are smaller."""
    scale = LONG_SIDE / max(height, width)
    return max(4 * UNIT, round(height * scale / UNIT) * UNIT), max(4 * UNIT, round(width * scale / UNIT) * UNIT)
