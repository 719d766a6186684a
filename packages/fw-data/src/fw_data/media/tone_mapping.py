"""High dynamic range video (HLG, PQ) to SDR RGB.

Rec. ITU-R BT.2100 gives the transfer functions and the HLG system gamma for a display of 1000 cd/m2; BT.2408 puts
diffuse white at 203 cd/m2. Diffuse white maps to almost white, brighter light is compressed smoothly.
Axis legend: h height, w width, 3 = RGB.
"""

from functools import cache
from typing import Literal

import numpy as np
from jaxtyping import Float32, UInt8, UInt16

Transfer = Literal["hlg", "pq"]

WHITE_NITS = 203.0
"""Luminance of diffuse white."""
_PEAK_NITS, _SYSTEM_GAMMA = 1000.0, 1.2
_KNEE = 0.7
"""Light up to this fraction of diffuse white is kept; beyond it, it approaches 1 exponentially."""
_DISPLAY_GAMMA = 2.4
_LUMA_2020 = np.array([0.2627, 0.6780, 0.0593], np.float32)
_BT709_FROM_BT2020 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)
_LEVELS = 4096


def to_sdr(signal: UInt16[np.ndarray, "h w 3"], transfer: Transfer) -> UInt8[np.ndarray, "h w 3"]:
    """BT.709 RGB of a BT.2020 image whose full 16-bit range is the signal range [0, 1]."""
    light = _linear(transfer)[signal >> 4]
    if transfer == "hlg":  # scene light to display light
        luma = light @ _LUMA_2020
        light = light * (_PEAK_NITS / WHITE_NITS * luma ** (_SYSTEM_GAMMA - 1))[..., None]
    light = np.maximum(light @ _BT709_FROM_BT2020.T, 0)
    brightest = light.max(axis=2, keepdims=True)
    compressed = _KNEE + (1 - _KNEE) * (1 - np.exp((_KNEE - brightest) / (1 - _KNEE)))
    light *= np.where(brightest > _KNEE, compressed / np.maximum(brightest, 1e-6), 1)
    return _display()[(np.sqrt(light) * (_LEVELS - 1)).astype(np.int32).clip(0, _LEVELS - 1)]


@cache
def _linear(transfer: Transfer) -> Float32[np.ndarray, " n"]:
    """Signal level to light: HLG scene light in [0, 1], PQ display light over diffuse white."""
    level = np.arange(_LEVELS) / (_LEVELS - 1)
    if transfer == "hlg":
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        return np.where(level <= 0.5, level**2 / 3, (np.exp((level - c) / a) + b) / 12).astype(np.float32)
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    power = level ** (1 / m2)
    return (10_000 / WHITE_NITS * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)).astype(np.float32)


@cache
def _display() -> UInt8[np.ndarray, " n"]:
    """Square root of display light to the 8-bit value of an SDR display (BT.1886)."""
    return np.round(255 * (np.arange(_LEVELS) / (_LEVELS - 1)) ** (2 / _DISPLAY_GAMMA)).astype(np.uint8)
