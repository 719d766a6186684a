"""Actions and observations on a page of the studio, shared by its tests and benchmarks."""

import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
"""Options of Chromium on a machine without a GPU."""
F, H, W = 5, 32, 48
"""Frames, rows and columns of the world that every job of the server gives."""
POINTS = F * H * W


def make(page, image, prompt, *, create="Create world", label="Prompt"):
    page.set_input_files("#image", str(image))
    page.get_by_label(label, exact=True).fill(prompt)
    page.get_by_role("button", name=create).click()


def points_shown(page, count):
    page.locator(f".stage-facts[data-count='{count}']").wait_for()


def serious(page):
    """What axe finds that shuts people out."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    found = axe.Axe().run(page).response["violations"]
    bad = [one for one in found if one["impact"] in ("serious", "critical")]
    return [(one["id"], [node["html"] for node in one["nodes"]]) for one in bad]


def plays_h264(page) -> bool:
    return page.evaluate("document.createElement('video').canPlayType('video/mp4; codecs=\"avc1.64001f\"') !== ''")


def surest(files: Path, share: float, frames: int | slice = slice(None)) -> int:
    """How many points the viewer shows of the surest share, from the file itself."""
    content = (files / "points.bin").read_bytes()
    size = struct.unpack_from("<I", content, 12)[0]
    confidence = np.frombuffer(content, "u1", POINTS, 16 + size + 15 * POINTS).reshape(F, -1)[frames]
    return int((confidence >= 255 * (1 - share) - 0.5).sum())


def tab_to(page, name):
    """Press Tab until the thing of this name has the focus."""
    said = """() => {
        const here = document.activeElement;
        return here.getAttribute('aria-label') || here.labels?.[0]?.innerText || here.innerText || '';
    }"""
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate(said).strip() == name:
            return
    raise AssertionError(f"{name!r} cannot be reached with Tab")


def by_key(page, key, tries=6):
    """The file dialog that a key opens; Chromium drops that of a key which a busy machine hands over seconds late."""
    from playwright.sync_api import TimeoutError as NoDialog

    try:
        with page.expect_file_chooser(timeout=50_000) as chooser:
            page.keyboard.press(key)
    except NoDialog:
        if tries == 1:
            raise
        return by_key(page, key, tries - 1)
    return chooser.value
