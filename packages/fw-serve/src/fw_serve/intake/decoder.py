"""Process that decodes untrusted images: limited memory, low priority, no file writes; may be killed at any time.

`ImageDecoder` starts it as `python -m fw_serve.intake.decoder PIPE`. Each message in is an image file. Each answer is
`P`, a line of JSON with the changes made and a PNG, or `E` and an error. Sizes are checked before decoding.
"""

import json
import os
import resource
import sys
from io import BytesIO
from multiprocessing.connection import Connection

from PIL import Image, PngImagePlugin

from fw_core.images import ImageError, read_image

FORMATS = ("PNG", "JPEG", "WEBP")
"""Pillow formats that are decoded. JPEG includes MPO, the multi-image JPEG of phones."""
MAX_PIXELS = 40_000_000
"""Maximum number of pixels, checked in the header."""
KEPT_SIDE = 4096
"""Larger images are downscaled to this side; no model generates frames of half that size."""
MIN_SIDE = 16
"""Minimum width and height in pixels."""
MEMORY_BYTES = 1_500_000_000
"""Address space of this process: enough to decode, rotate and encode `MAX_PIXELS` once."""


def main() -> None:
    """Answer requests until the pipe closes."""
    PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 1 << 20
    Image.init()  # imports every decoder before the limits apply
    _confine()
    pipe = Connection(int(sys.argv[1]))
    while True:
        try:
            content = pipe.recv_bytes()
        except EOFError:
            return
        try:
            png, notes = decode(content)
            pipe.send_bytes(b"P" + json.dumps(notes).encode() + b"\n" + png)
        except ImageError as error:
            pipe.send_bytes(b"E" + str(error).encode())
        except MemoryError:
            pipe.send_bytes(b"Ethe image needs too much memory to decode; send a smaller one")
        except Exception:  # a damaged file can raise anything
            pipe.send_bytes(b"Ethe image is damaged; save it again as PNG or JPEG")


def decode(content: bytes) -> tuple[bytes, list[str]]:
    """Decode an image to an upright RGB PNG without metadata; also the changes made, for its sender.

    Raises:
        ImageError: not an image in one of `FORMATS`, damaged, animated, too large or too small.
    """
    rgb, changes = read_image(content, name="the image", formats=FORMATS, max_pixels=MAX_PIXELS)
    height, width = rgb.shape[:2]
    if min(height, width) < MIN_SIDE:
        raise ImageError(f"the image has {width}x{height} pixels; the minimum is {MIN_SIDE}x{MIN_SIDE}")
    upright = Image.fromarray(rgb)
    if max(upright.size) > KEPT_SIDE:
        upright.thumbnail((KEPT_SIDE, KEPT_SIDE), Image.Resampling.LANCZOS)
    out = BytesIO()
    upright.save(out, "PNG", compress_level=1)
    return out.getvalue(), list(changes)


def _confine() -> None:
    os.nice(10)  # requests that need no image are answered first
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main()
