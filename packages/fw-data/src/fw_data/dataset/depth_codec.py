"""The blob of a depth, confidence or label clip: each frame compressed apart, so that a window of frames decodes alone.

Layout (little endian): header | frames + 1 offsets (uint64, from the start of the payload) | payload.
Header, 32 bytes: magic "FWDB", version, kind (0 = uint8, 1 = float16), frames, height, width, scale (float64).
Each frame is zstd(byte planes(difference along x)) of the samples; differences wrap, so they are exact. Depth is the
float16 of depth / scale, where scale is a power of two that puts the clip's median at about 1: the relative error is
at most 2^-11 whatever the unit. Axis legend: f frames, h height, w width.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import zstandard
from jaxtyping import Float32, UInt8, UInt16

from fw_data.errors import DataError

MAGIC = b"FWDB"
VERSION = 1
HEADER = struct.Struct("<4sBB2xIIIId")
KIND_UINT8, KIND_FLOAT16 = 0, 1
LEVEL = 3


@dataclass(frozen=True, kw_only=True)
class BlobHeader:
    """Header of a blob."""

    kind: int
    """KIND_UINT8 (confidence, labels) or KIND_FLOAT16 (depth)."""
    frames: int
    """Number of frames."""
    height: int
    """Rows of each frame."""
    width: int
    """Columns of each frame."""
    scale: float
    """Factor of stored samples."""

    @property
    def payload_start(self) -> int:
        """Byte where the first frame begins."""
        return HEADER.size + 8 * (self.frames + 1)


def encode_depth(depth_m: Float32[np.ndarray, "f h w"]) -> bytes:
    """Pack z-depth (>= 0, 0 = invalid) of a clip.

    Depth more than 65504 times the clip's median does not fit float16 and is stored as invalid.
    """
    valid = depth_m[depth_m > 0]
    scale = float(2.0 ** np.round(np.log2(np.median(valid)))) if valid.size else 1.0
    scaled = depth_m.astype(np.float64) / scale
    half = np.where(scaled <= np.finfo(np.float16).max, scaled, 0.0).astype(np.float16)
    return _encode(half.view(np.uint16), KIND_FLOAT16, scale)


def encode_confidence(confidence: Float32[np.ndarray, "f h w"]) -> bytes:
    """Pack confidence in [0, 1] as 8 bits (error <= 1/510)."""
    return _encode(np.round(confidence.astype(np.float64) * 255.0).astype(np.uint8), KIND_UINT8, 1.0 / 255.0)


def encode_labels(labels: UInt8[np.ndarray, "f h w"]) -> bytes:
    """Pack 8-bit labels; `decode` gives them back exactly, as float32."""
    return _encode(labels, KIND_UINT8, 1.0)


def decode(blob: bytes, frames: Sequence[int] | range | None = None) -> Float32[np.ndarray, "f h w"]:
    """Unpack a whole blob, or the frames with the given indices."""
    header = read_header(blob)
    offsets = read_offsets(blob, header)
    wanted = range(header.frames) if frames is None else frames
    return decode_frames(blob[header.payload_start :], header, offsets, wanted, payload_offset=0)


def read_header(blob: bytes) -> BlobHeader:
    """Parse the first HEADER.size bytes; raises DataError when they are not a blob of ours."""
    if len(blob) < HEADER.size:
        raise DataError("blob-torn", f"depth blob of {len(blob)} bytes is shorter than its {HEADER.size}-byte header")
    magic, version, kind, frames, height, width, _, scale = HEADER.unpack_from(blob)
    if magic != MAGIC:
        raise DataError("blob-magic", f"depth blob begins with {magic!r}, not {MAGIC!r}: this is another file type")
    if version != VERSION or kind not in (KIND_UINT8, KIND_FLOAT16):
        raise DataError(
            "blob-version", f"depth blob version {version}, kind {kind}; this reader knows {VERSION}, 0 or 1"
        )
    return BlobHeader(kind=kind, frames=frames, height=height, width=width, scale=scale)


def read_offsets(blob: bytes, header: BlobHeader) -> list[int]:
    """The frame offsets that follow the header."""
    if len(blob) < header.payload_start:
        raise DataError("blob-torn", f"depth blob ends inside its table of {header.frames} frame offsets")
    return list(struct.unpack_from(f"<{header.frames + 1}Q", blob, HEADER.size))


def decode_frames(
    payload: bytes, header: BlobHeader, offsets: Sequence[int], frames: Sequence[int] | range, *, payload_offset: int
) -> Float32[np.ndarray, "f h w"]:
    """Unpack some frames from a piece of the payload that begins `payload_offset` bytes into it."""
    out = np.empty((len(frames), header.height, header.width), np.float32)
    item = 2 if header.kind == KIND_FLOAT16 else 1
    size = header.height * header.width * item
    unpacker = zstandard.ZstdDecompressor()
    for row, frame in enumerate(frames):
        begin, end = offsets[frame] - payload_offset, offsets[frame + 1] - payload_offset
        try:
            raw = unpacker.decompress(payload[begin:end], max_output_size=size)
        except zstandard.ZstdError as error:
            raise DataError("blob-torn", f"frame {frame} of the depth blob does not unpack: {error}") from error
        if len(raw) != size:
            raise DataError("blob-torn", f"frame {frame} of the depth blob holds {len(raw)} bytes, expected {size}")
        planes = np.frombuffer(raw, np.uint8).reshape(item, header.height, header.width)
        if header.kind == KIND_FLOAT16:
            samples = _undelta(planes[0].astype(np.uint16) | (planes[1].astype(np.uint16) << np.uint16(8)))
            _widen(samples, out[row])
            out[row] *= np.float32(header.scale)
        else:
            np.multiply(_undelta(planes[0]), np.float32(header.scale), out=out[row], dtype=np.float32)
    return out


def _encode(samples: UInt16[np.ndarray, "f h w"] | UInt8[np.ndarray, "f h w"], kind: int, scale: float) -> bytes:
    packer = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True, write_content_size=True)
    delta = samples.copy()
    delta[..., 1:] -= samples[..., :-1]
    frames, height, width = samples.shape
    chunks = []
    for frame in delta:
        planes = frame.view(np.uint8).reshape(height, width, -1).transpose(2, 0, 1)
        chunks.append(packer.compress(np.ascontiguousarray(planes).tobytes()))
    offsets = np.cumsum([0, *(len(chunk) for chunk in chunks)], dtype="<u8")
    head = HEADER.pack(MAGIC, VERSION, kind, frames, height, width, 0, scale)
    return b"".join([head, offsets.tobytes(), *chunks])


def _undelta(delta: np.ndarray) -> np.ndarray:
    return np.cumsum(delta, axis=1, dtype=delta.dtype)


def _widen(half_bits: UInt16[np.ndarray, "h w"], out: Float32[np.ndarray, "h w"]) -> None:
    """float16 bit patterns, not negative and finite, as float32: three times as fast as numpy's own conversion.

    Shifted by 13 bits, exponent and fraction lie where float32 has them, with the exponent 112 too small; the product
    sets it right, and is exact for subnormal numbers too.
    """
    bits = half_bits.astype(np.uint32)
    bits <<= 13
    np.multiply(bits.view(np.float32), np.float32(2.0**112), out=out)
