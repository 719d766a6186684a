"""Fixtures of the studio's tests: a server with the stub engine, and pages in Chromium."""

from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from tests.e2e.studio import CHROMIUM, FLAGS, F, H, W
from tests.stub_server.server_process import Server


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """What every job of the server gives: a slope of colored checks, surer to the right."""
    from fw_geometry.trajectories import make_trajectory
    from fw_model.pipeline.result import World
    from fw_serve.worker.artifacts import write_artifacts

    row, column = np.mgrid[0:H, 0:W]
    depth = np.repeat((2.0 - row / H)[None], F, axis=0).astype(np.float32)
    checks = np.stack([column * 5, row * 7, 255 - column * 4], axis=-1)
    video = np.stack([np.roll(checks, frame, axis=1) for frame in range(F)]).astype(np.uint8)
    confidence = np.repeat((1.0 + column)[None], F, axis=0).astype(np.float32)
    path = make_trajectory("orbit", F, width=W, height=H)
    world = World(
        video=video, depth=depth, depth_confidence=confidence, points=np.zeros((F, H, W, 3), np.float32),
        points_confidence=confidence, trajectory=path, requested=path, fps=5.0,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("world")
    write_artifacts(world, folder)
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory, files):
    running = Server(tmp_path_factory.mktemp("studio"), files=str(files)).start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("image") / "room.png"
    Image.linear_gradient("L").resize((120, 80)).convert("RGB").save(path)
    return path


@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here (the Debian package is chromium)")
    with playwright.sync_playwright() as starter:
        browser = starter.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium):
    """Opens pages in contexts of their own; no page may throw, break its own policy, or ask another host."""
    contexts, wrong = [], []

    def open_one(url, *, width=960, height=640, locale="en-GB", **options):
        context = chromium.new_context(viewport={"width": width, "height": height}, locale=locale, **options)
        contexts.append(context)
        context.set_default_timeout(300_000)
        page, host = context.new_page(), urlsplit(url).netloc
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda line: "Content Security" in line.text and wrong.append(line.text))
        page.on(
            "request",
            lambda asked: urlsplit(asked.url).netloc not in (host, "") and wrong.append(asked.url),
        )
        page.goto(url)
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert not wrong
