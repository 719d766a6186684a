"""The process that opens strangers' pictures: it can use little memory, write no file, and be killed at any time.

Started by `ImageDecoder` as `python -m fw_serve.intake.decoder PIPE`; one message in (the picture), one out (`P` and a
PNG, or `E` and a sentence). Only PNG, JPEG and WebP are opened, and nothing is decoded before its size is known.
"""

import resource
import sys
import warnings
from io import BytesIO
from multiprocessing.connection import Connection

MAX_PIXELS = 40_000_000
"""Pictures of more pixels are refused by what their header says."""

MEMORY_BYTES = 1_500_000_000
"""Address space of this process: room for `MAX_PIXELS` decoded, turned and encoded once."""


def main() -> None:
    """Answer until the other side goes away."""
    from PIL import Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

    assert JpegImagePlugin
    assert WebPImagePlugin
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 1 << 20
    warnings.simplefilter("error")
    _confine()
    pipe = Connection(int(sys.argv[1]))
    while True:
        try:
            content = pipe.recv_bytes()
        except EOFError:
            return
        try:
            pipe.send_bytes(b"P" + decode(content))
        except RefusedError as refusal:
            pipe.send_bytes(b"E" + str(refusal).encode())
        except MemoryError:
            pipe.send_bytes(b"Ethe picture needs too much memory to decode; send a smaller one")
        except Exception:  # a damaged file can raise anything; which of it is of no use to its sender
            pipe.send_bytes(b"Ethe picture is damaged, or not what its first bytes say; save it again as PNG or JPEG")


class RefusedError(ValueError):
    """A picture that will not be opened; the message is for its sender."""


def decode(content: bytes) -> bytes:
    """The picture as an RGB PNG without metadata, turned upright as its camera noted.

    Raises:
        RefusedError: not a picture of a known kind, too large, or animated.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        picture = Image.open(BytesIO(content), formats=["PNG", "JPEG", "WEBP"])
    except (UnidentifiedImageError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        if isinstance(error, UnidentifiedImageError):
            raise RefusedError("this is not a PNG, JPEG or WebP picture") from None
        raise RefusedError(f"the picture has more than {MAX_PIXELS} pixels; send a smaller one") from None
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise RefusedError(f"the picture is {width} x {height}, more than {MAX_PIXELS} pixels; send a smaller one")
    if min(width, height) < 16:
        raise RefusedError(f"the picture is {width} x {height}; it needs at least 16 x 16 pixels")
    if getattr(picture, "n_frames", 1) != 1:
        raise RefusedError("the picture is an animation; send one frame")
    upright = ImageOps.exif_transpose(picture).convert("RGB")
    clean = Image.new("RGB", upright.size)
    clean.paste(upright)
    out = BytesIO()
    clean.save(out, "PNG", compress_level=1)
    return out.getvalue()


def _confine() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main()
