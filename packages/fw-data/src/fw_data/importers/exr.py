"""Depth maps in OpenEXR files, as ViPE stores them: scanline files, not compressed or with ZIP or ZIPS.

The bundled OpenCV has no OpenEXR. Axis legend: h height, w width.
"""

import struct
import zlib

import numpy as np
from jaxtyping import Float32

from fw_data.errors import DataError
from fw_data.media.probe import MediaLimits

_MAGIC = b"\x76\x2f\x31\x01"
_NOT_SCANLINE = 0x200 | 0x800 | 0x1000  # flags of tiles, deep data and several parts
_TYPES = {0: np.dtype("<u4"), 1: np.dtype("<f2"), 2: np.dtype("<f4")}
_LINES = {0: 1, 2: 1, 3: 16}
"""Scanlines per block by compression: none, ZIPS, ZIP."""


def decode_exr_depth(content: bytes, name: str) -> Float32[np.ndarray, "h w"]:
    """Channel Z, or the only channel, of an OpenEXR file; DataError for damaged or other kinds of files."""
    try:
        return _decode(content, name)
    except (struct.error, ValueError, IndexError, zlib.error) as error:
        if isinstance(error, DataError):
            raise
        raise DataError("depth", f"{name} is a damaged OpenEXR file: {error}") from error


def _decode(content: bytes, name: str) -> Float32[np.ndarray, "h w"]:
    if content[:4] != _MAGIC or struct.unpack_from("<I", content, 4)[0] & _NOT_SCANLINE:
        raise DataError("depth", f"{name} is not a scanline OpenEXR file")
    attributes, at = _attributes(content)
    compression = attributes["compression"][0]
    if compression not in _LINES:
        raise DataError("depth", f"{name} has compression {compression}; only none, ZIPS and ZIP are read")
    left, top, right, bottom = struct.unpack("<4i", attributes["dataWindow"])
    width, height = right - left + 1, bottom - top + 1
    if not 0 < width * height <= MediaLimits().max_pixels or min(width, height) < 1:
        raise DataError("depth", f"{name} is {width}x{height}")
    channels = _channels(attributes["channels"])
    wanted = "Z" if "Z" in channels else next(iter(channels))
    if len(channels) > 1 and wanted != "Z":
        raise DataError("depth", f"{name} has the channels {', '.join(channels)}, and no Z")
    before = sum(channels[other].itemsize for other in channels if other < wanted) * width
    row_bytes = sum(dtype.itemsize for dtype in channels.values()) * width
    lines = _LINES[compression]
    depth = np.empty((height, width), np.float32)
    for offset in struct.unpack_from(f"<{-(-height // lines)}Q", content, at):
        first, size = struct.unpack_from("<ii", content, offset)
        count = min(lines, bottom - first + 1)
        block = _unpack(content[offset + 8 : offset + 8 + size], count * row_bytes, compression)
        rows = np.frombuffer(block, np.uint8).reshape(count, row_bytes)
        rows = rows[:, before : before + channels[wanted].itemsize * width]
        depth[first - top : first - top + count] = np.ascontiguousarray(rows).view(channels[wanted])
    return depth


def _attributes(content: bytes) -> tuple[dict[str, bytes], int]:
    """Header attributes by name, and where the header ends."""
    found, at = {}, 8
    while content[at] != 0:
        end = content.index(b"\0", at)
        kind_end = content.index(b"\0", end + 1)
        (size,) = struct.unpack_from("<I", content, kind_end + 1)
        found[content[at:end].decode("latin-1")] = content[kind_end + 5 : kind_end + 5 + size]
        at = kind_end + 5 + size
    missing = {"compression", "dataWindow", "channels"} - set(found)
    if missing:
        raise ValueError(f"no attribute {missing.pop()}")
    return found, at + 1


def _channels(data: bytes) -> dict[str, np.dtype]:
    """Channel types by name, in the order of the file, which is alphabetical."""
    found, at = {}, 0
    while data[at] != 0:
        end = data.index(b"\0", at)
        kind, _, across, down = struct.unpack_from("<iIii", data, end + 1)
        if kind not in _TYPES or (across, down) != (1, 1):
            raise ValueError("a subsampled channel")
        found[data[at:end].decode("latin-1")] = _TYPES[kind]
        at = end + 17
    return found


def _unpack(data: bytes, size: int, compression: int) -> bytes:
    if compression == 0 or len(data) == size:  # blocks that do not shrink are stored as they are
        return data
    packed = np.frombuffer(zlib.decompress(data, bufsize=size), np.uint8).astype(np.int64)
    if len(packed) != size:
        raise ValueError(f"a block of {len(packed)} bytes, expected {size}")
    packed[1:] -= 128  # each byte is stored as the difference to the one before
    packed = np.cumsum(packed).astype(np.uint8)
    out = np.empty(size, np.uint8)
    out[0::2], out[1::2] = packed[: (size + 1) // 2], packed[(size + 1) // 2 :]
    return out.tobytes()
