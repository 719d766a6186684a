"""The image reader of the command line, the service and the importers.

It reads pixels as a viewer shows them: EXIF orientation is applied, transparency is composited over white, 16-bit
gray is scaled, embedded color profiles are converted to sRGB, and the first image of a phone's multi-image JPEG (MPO)
is taken. Every such change is noted. `psnr` compares two images.

Axes: F frames, H W pixels.
"""

import warnings
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_DB = 100.0
"""PSNR reported for identical frames, where it would be infinite."""
BACKGROUND = (255, 255, 255)
"""Color behind transparent pixels."""
MAX_PIXELS = 200_000_000
_ORIENTATION, _SUBFILE_TYPE, _DNG_VERSION = 0x0112, 0x00FE, 0xC612
_RAW = "{} is a camera raw file; export it as JPEG or PNG"
_OPTIONAL = {"heic": "pillow-heif", "heif": "pillow-heif", "avif": "pillow 11.3 or newer"}


class ImageError(ValueError):
    """An image that cannot be read; the message names it, the reason and a fix."""


class DecodedImage(NamedTuple):
    """Decoded pixels and the changes made to them."""

    rgb: UInt8[np.ndarray, "h w 3"]
    """sRGB, upright."""
    notes: tuple[str, ...]
    """Changes to report, such as `transparent pixels were composited over white`."""


def read_image(
    source: Path | str | bytes,
    *,
    name: str | None = None,
    formats: tuple[str, ...] | None = None,
    max_pixels: int = MAX_PIXELS,
    upright: bool = True,
) -> DecodedImage:
    """Decode an image file.

    Args:
        source: a path, or the file's content.
        name: name of the image in errors; the path if None.
        formats: Pillow formats to accept, where JPEG includes MPO; None accepts all that are installed.
        max_pixels: larger images are refused before they are decoded.
        upright: apply the EXIF orientation; False keeps the stored pixels, which the cameras of a dataset refer to.

    Raises:
        ImageError: not an image, damaged, animated, too large, or in a format that no installed decoder reads.
        FileNotFoundError: there is no such file.
    """
    called = name or (str(source) if not isinstance(source, bytes) else "image")
    if isinstance(source, bytes):
        content = source
    else:
        path = Path(source)
        if path.is_dir():
            raise ImageError(f"{called} is a folder; give an image file")
        if not path.exists():
            raise FileNotFoundError(2, "image not found", called)
        content = path.read_bytes()
    if not content:
        raise ImageError(f"{called} is an empty file")
    return _decode(content, called, formats, max_pixels, upright)


def decode_image(image: "Image", *, name: str = "image") -> DecodedImage:
    """Pixels of an opened Pillow image, with the same changes as `read_image`.

    Raises:
        ImageError: damaged, or values that have no 8-bit form.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _convert(image, name, upright=True)
    except (OSError, SyntaxError, EOFError) as error:
        raise ImageError(f"{name} is damaged or cut off: {error}") from None


def sniff(content: bytes) -> str:
    """Image format by the first bytes, in lower case; empty if unknown."""
    if content[4:8] == b"ftyp":
        brand = content[8:12].decode("latin-1").strip("\0 ")
        return {"avif": "avif", "avis": "avif", "crx": "cr3"}.get(brand, "heic" if brand in _HEIC_BRANDS else "mp4")
    for magic, kind in _MAGIC.items():
        if content.startswith(magic):
            return kind
    return "webp" if content[:4] == b"RIFF" and content[8:12] == b"WEBP" else ""


def _decode(
    content: bytes, called: str, formats: tuple[str, ...] | None, max_pixels: int, upright: bool
) -> DecodedImage:
    from PIL import Image, UnidentifiedImageError

    kind = sniff(content)
    if formats is None:
        _register(kind)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about large images and odd EXIF, which are handled here
            image = Image.open(BytesIO(content), formats=formats)
            if image.width * image.height > max_pixels:
                raise ImageError(
                    f"{called} has {image.width}x{image.height} pixels, more than {max_pixels / 1e6:g} million; "
                    "downscale it"
                )
            if (frames := getattr(image, "n_frames", 1)) > 1 and image.format not in ("MPO", "TIFF"):
                raise ImageError(f"{called} is animated ({image.format}, {frames} frames); give a single image")
            return _convert(image, called, upright)
    except UnidentifiedImageError:
        raise ImageError(_unreadable(called, kind, formats)) from None
    except Image.DecompressionBombError:
        raise ImageError(f"{called} has more than {max_pixels / 1e6:g} million pixels; downscale it") from None
    except (OSError, SyntaxError, EOFError) as error:
        raise ImageError(f"{called} is damaged or cut off ({kind.upper() or 'unknown format'}): {error}") from None


def _convert(image: Any, called: str, upright: bool) -> DecodedImage:
    notes: list[str] = []
    if image.format == "MPO":
        notes.append("the first image of a multi-image JPEG was taken")
    elif image.format == "TIFF" and (image.tag_v2.get(_SUBFILE_TYPE, 0) & 1 or _DNG_VERSION in image.tag_v2):
        raise ImageError(_RAW.format(called))  # Pillow would give its thumbnail
    elif image.format == "TIFF" and image.n_frames > 1:
        notes.append(f"the first of {image.n_frames} pages was taken")
    image.load()
    image = _upright(image, notes) if upright else image
    if image.mode in ("I", "I;16", "I;16B", "I;16L", "F"):
        return DecodedImage(_gray(image, called, notes), tuple(notes))
    image = _standard_colors(image, notes)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        from PIL import Image

        layer = image.convert("RGBA")
        if layer.getextrema()[3][0] < 255:
            notes.append("transparent pixels were composited over white")
        canvas = Image.new("RGBA", layer.size, (*BACKGROUND, 255))
        image = Image.alpha_composite(canvas, layer)
    return DecodedImage(np.array(image.convert("RGB")), tuple(notes))


def _upright(image: Any, notes: list[str]) -> Any:
    from PIL import ImageOps

    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
        turned = ImageOps.exif_transpose(image)
    except Exception:  # Pillow raises anything from KeyError to struct.error on damaged EXIF
        notes.append("damaged EXIF data were ignored")
        return image
    if orientation in range(2, 9):  # 1 is upright
        notes.append("turned upright, following its EXIF orientation")
    return turned


def _gray(image: Any, called: str, notes: list[str]) -> UInt8[np.ndarray, "h w 3"]:
    values = np.asarray(image)
    if image.mode == "F":
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
            raise ImageError(f"{called} holds floating-point values outside 0..1; save it as 8-bit or 16-bit")
        values = (values.astype(np.float64) * 65535).round()
    elif values.min() < 0 or values.max() > 65535:
        raise ImageError(f"{called} holds 32-bit values; save it as 8-bit or 16-bit")
    notes.append("16-bit gray was scaled to 8 bits")
    return np.repeat(((values.astype(np.uint32) + 128) // 257).astype(np.uint8)[..., None], 3, axis=-1)


def _standard_colors(image: Any, notes: list[str]) -> Any:
    """Convert to sRGB if an embedded profile names another color space."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "RGBA", "CMYK"):
        return image
    try:
        from PIL import ImageCms

        given = ImageCms.ImageCmsProfile(BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(given).lower():
            return image
        mode = "RGBA" if image.mode == "RGBA" else "RGB"
        converted = ImageCms.profileToProfile(image, given, ImageCms.createProfile("sRGB"), outputMode=mode)
    except Exception:  # a broken profile must not cost the image
        notes.append("an unreadable color profile was ignored")
        return image
    notes.append("colors were converted to sRGB")
    return converted


def _register(kind: str) -> None:
    if kind in ("heic", "heif"):
        try:
            import pillow_heif  # pyright: ignore[reportMissingImports]
        except ImportError:
            return
        pillow_heif.register_heif_opener()


def _unreadable(called: str, kind: str, formats: tuple[str, ...] | None) -> str:
    if kind == "cr3":
        return _RAW.format(called)
    if kind == "mp4":
        return f"{called} is a video; give an image, or extract a frame from it"
    if formats:
        found = f"is in the format {kind.upper()}" if kind else "is not an image"
        return f"{called} {found}; give {', '.join(formats)}"
    if kind in _OPTIONAL:
        return (
            f"{called} is in the format {kind.upper()}, and its decoder is not installed: "
            f"install {_OPTIONAL[kind]}, or save the image as JPEG or PNG"
        )
    return f"{called} is not an image, or its format is not supported; give JPEG, PNG or WebP"


_HEIC_BRANDS = {"heic", "heix", "hevc", "hevx", "heim", "heis", "mif1", "msf1"}
_MAGIC = {
    b"\xff\xd8\xff": "jpeg",
    b"\x89PNG\r\n\x1a\n": "png",
    b"GIF8": "gif",
    b"BM": "bmp",
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
    b"%PDF": "pdf",
    b"<svg": "svg",
    b"<?xml": "svg",
}


def psnr(pred: UInt8[np.ndarray, "F H W 3"], truth: UInt8[np.ndarray, "F H W 3"]) -> Float[np.ndarray, "F"]:
    """Peak signal-to-noise ratio of every frame in dB over all three channels, peak 255, at most `MOST_DB`."""
    error = np.stack([((p.astype(np.float64) - t) ** 2).mean() for p, t in zip(pred, truth, strict=True)])
    floor = 255**2 / 10 ** (MOST_DB / 10)
    return 10 * np.log10(255**2 / np.maximum(error, floor))
