"""Images as users bring them, made here with the right pixels known beforehand."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, TiffImagePlugin

from fw_core.images import ImageError, read_image, sniff

RAMP = np.stack(np.broadcast_arrays(np.arange(48) * 5, np.arange(32)[:, None] * 7, 40), -1).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format=kind, **options)  # pyright: ignore[reportArgumentType]
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_comes_out_upright(orientation: int) -> None:
    operations = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,  # the camera's turn: stored lying, shown upright
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = Image.fromarray(RAMP)
    if orientation > 1:
        stored = stored.transpose(operations[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    read = read_image(encoded(stored, "PNG", exif=exif))
    np.testing.assert_array_equal(read.rgb, RAMP)
    assert ["EXIF" in note for note in read.notes] == [True] * (orientation > 1)


def test_damaged_exif_does_not_cost_the_image() -> None:
    good = encoded(Image.fromarray(RAMP), "JPEG", quality=95, exif=b"Exif\0\0MM\0*\0\0\0\x08" + b"\xff" * 30)
    assert read_image(good).rgb.shape == RAMP.shape


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_16_bit_gray_is_scaled(dtype: type) -> None:
    ramp = np.linspace(0, 65535, 256).astype(dtype)[None].repeat(4, 0)
    image = Image.fromarray(ramp)
    read = read_image(encoded(image, "PNG" if dtype is np.uint16 else "TIFF"))
    np.testing.assert_array_equal(read.rgb[0, :, 0], np.arange(256))
    assert any("16-bit" in note for note in read.notes)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_hidden_colors_under_transparency_stay_hidden(mode: str) -> None:
    pixels = np.zeros((8, 16, 4), np.uint8)
    pixels[:, :8] = (128, 128, 128, 255)
    pixels[:, 8:] = (255, 0, 255, 0)
    image = Image.fromarray(pixels)
    if mode == "P":
        image = image.convert("RGB").quantize(4)
        index = image.getpixel((12, 4))
        content = encoded(image, "PNG", transparency=index)
    else:
        content = encoded(image.convert(mode), "PNG")
    read = read_image(content)
    assert (read.rgb[:, 8:] == 255).all()
    assert abs(read.rgb[:, :8].astype(int) - 128).max() <= 2
    assert any("white" in note for note in read.notes)


def test_half_transparent_pixels_are_blended() -> None:
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 128))
    assert abs(int(read_image(encoded(image, "PNG")).rgb[0, 0, 0]) - 127) <= 1


def test_the_first_image_of_an_mpo_is_taken() -> None:
    first, second = Image.fromarray(RAMP), Image.new("RGB", (48, 32))
    content = encoded(first, "MPO", save_all=True, append_images=[second], quality=100, subsampling=0)
    read = read_image(content)
    assert abs(read.rgb.astype(int) - RAMP).max() < 12
    assert any("multi-image" in note for note in read.notes)


def test_the_first_page_of_a_tiff_is_taken_and_noted() -> None:
    pages = [Image.fromarray(RAMP), Image.new("RGB", (48, 32)), Image.new("RGB", (8, 8))]
    read = read_image(encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:]))
    np.testing.assert_array_equal(read.rgb, RAMP)
    assert read.notes == ("the first of 3 pages was taken",)


def test_camera_raw_files_are_refused_and_their_thumbnails_not_taken() -> None:
    """Raw files of many cameras are TIFF files whose first image is a thumbnail."""
    for tag, value in ((0x00FE, 1), (0xC612, bytes((1, 4, 0, 0)))):  # reduced-resolution image, DNGVersion
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags.tagtype[tag] = 4 if tag == 0x00FE else 1
        tags[tag] = value
        with pytest.raises(ImageError, match=r"photo\.nef is a camera raw file"):
            read_image(encoded(Image.fromarray(RAMP), "TIFF", tiffinfo=tags), name="photo.nef")
    with pytest.raises(ImageError, match="camera raw"):
        read_image(b"\0\0\0\x18ftypcrx \0\0\0\1" + bytes(40), name="photo.cr3")


def test_cmyk_gray_and_bilevel_become_rgb() -> None:
    for mode in ("CMYK", "L", "1"):
        content = encoded(Image.fromarray(RAMP).convert(mode), "TIFF")
        assert read_image(content).rgb.shape == RAMP.shape


def test_an_embedded_profile_is_converted_to_srgb() -> None:
    linear = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    content = encoded(Image.fromarray(RAMP), "PNG", icc_profile=linear.tobytes())
    assert any("profile" in note or "sRGB" in note for note in read_image(content).notes)
    same = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    np.testing.assert_array_equal(read_image(encoded(Image.fromarray(RAMP), "PNG", icc_profile=same)).rgb, RAMP)


def test_truncated_files_are_one_line_that_names_them(tmp_path: Path) -> None:
    for kind in ("JPEG", "PNG", "WEBP"):
        path = tmp_path / f"cut.{kind.lower()}"
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        path.write_bytes(encoded(Image.fromarray(noise), kind)[:400])
        with pytest.raises(ImageError, match=path.name) as caught:
            read_image(path)
        assert "\n" not in str(caught.value)


def test_what_is_no_image_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("hello")
    for name, word in (("folder", "folder"), ("empty.png", "empty"), ("text.png", "not an image")):
        with pytest.raises(ImageError, match=rf"{name}.*{word}"):
            read_image(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"missing\.png"):
        read_image(tmp_path / "missing.png")


def test_animations_videos_and_large_images_are_refused() -> None:
    frames = [Image.new("RGB", (8, 8), (i, 0, 0)) for i in (0, 99, 200)]
    with pytest.raises(ImageError, match=r"animated.*3 frames"):
        read_image(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    with pytest.raises(ImageError, match="video"):
        read_image(b"\0\0\0\x18ftypisom" + b"\0" * 40)
    with pytest.raises(ImageError, match="48x32"):
        read_image(encoded(Image.fromarray(RAMP), "PNG"), max_pixels=1000)


def test_heic_without_a_decoder_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    with pytest.raises(ImageError, match=r"HEIC.*pillow-heif"):
        read_image(b"\0\0\0\x18ftypheic" + b"\0" * 40, name="photo.heic")


def test_formats_can_be_limited() -> None:
    with pytest.raises(ImageError, match=r"BMP.*PNG"):
        read_image(encoded(Image.fromarray(RAMP), "BMP"), formats=("PNG", "JPEG"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_sniff_knows_what_it_reads(kind: str) -> None:
    assert sniff(encoded(Image.fromarray(RAMP), kind)) == kind.lower()
