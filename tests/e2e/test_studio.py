"""The studio in a browser: from a dropped image to a point cloud, by mouse, by keyboard, on a phone, in Chinese.

The server is the real one with the stub engine, whose every job gives the same small world of a made-up room.
"""

import base64
import filecmp
import io
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.e2e.studio import (
    H,
    W,
    by_key,
    make,
    plays_h264,
    points_shown,
    serious,
    surest,
    tab_to,
)

ROOT = Path(__file__).resolve().parents[2]
STATIC = ROOT / "packages/fw-serve/src/fw_serve/studio/static"
SOURCES = ROOT / "apps/studio"


def test_the_page_is_small_and_asks_nobody_else():
    files = [path for path in STATIC.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 1_500_000
    page = (STATIC / "index.html").read_text()
    assert "//" not in page, "addresses of the page are relative"
    linked = {path.name for path in files if f"./studio/{path.name}" in page}
    assert {Path(name).suffix for name in linked} == {".js", ".css", ".svg"}


def test_the_page_is_what_its_sources_build(tmp_path):
    vite = SOURCES / "node_modules/.bin/vite"
    if shutil.which("node") is None or not vite.exists():
        pytest.skip("node, or what `npm ci` in apps/studio installs, is not here")
    built = tmp_path / "static"
    command = [vite, "build", "--outDir", built, "--logLevel", "error"]
    subprocess.run(command, cwd=SOURCES, check=True, capture_output=True, text=True)
    names = [sorted(p.relative_to(top).as_posix() for p in top.rglob("*") if p.is_file()) for top in (built, STATIC)]
    assert names[0] == names[1], "run `npm run build` in apps/studio and commit the result"
    _, changed, _ = filecmp.cmpfiles(built, STATIC, names[0], shallow=False)
    assert not changed, f"run `npm run build` in apps/studio and commit the result: {changed}"


def test_the_page_is_served_with_its_own_policy_and_nothing_beside_it(server):
    page = server.http.get("/")
    policy = page.headers["content-security-policy"]
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    script = next(path.name for path in (STATIC / "studio").glob("index-*.js"))
    answer = server.http.get(f"/studio/{script}")
    assert (answer.status_code, answer.headers["content-type"].split(";")[0]) == (200, "text/javascript")
    for name in ("..%2findex.html", "%2e%2e/routes.py", "routes.py", "no.js"):
        assert server.http.get(f"/studio/{name}").status_code == 404
    assert server.http.post("/").status_code == 405


@pytest.mark.slow
def test_from_a_dropped_image_to_the_point_cloud(server, open_page, image, files, tmp_path):
    page = open_page(server.url, accept_downloads=True)
    page.get_by_text("Your worlds appear here.").wait_for()
    drop = """([element, content]) => {
        const bytes = Uint8Array.from(atob(content), (sign) => sign.charCodeAt(0));
        const moved = new DataTransfer();
        moved.items.add(new File([bytes], 'room.png', { type: 'image/png' }));
        element.dispatchEvent(new DragEvent('drop', { dataTransfer: moved, bubbles: true, cancelable: true }));
    }"""
    content = base64.b64encode(image.read_bytes()).decode()
    page.evaluate(drop, [page.locator(".drop").element_handle(), content])
    page.get_by_alt_text("First frame of the world").wait_for()
    page.get_by_label("Prompt", exact=True).fill("a sunny room")
    page.get_by_text("Forward", exact=True).click()
    page.get_by_label("Distance").fill("0.5")
    page.get_by_text("5 frames · length 0.5").wait_for()
    page.get_by_role("button", name="Create world").click()

    page.get_by_role("heading", name="a sunny room").wait_for()
    page.get_by_text("Depth, confidence and details").wait_for()
    points_shown(page, surest(files, 0.75))
    made = server.http.get("/v1/videos?limit=1").json()["data"][0]
    assert (made["camera"], made["prompt"], made["status"]) == ("dolly", "a sunny room", "completed")
    assert page.url.endswith(f"#/world/{made['id']}")

    canvas = page.get_by_role("application")
    before, box = canvas.screenshot(), canvas.bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] + 120, middle[1] + 30, steps=3)
    page.mouse.up()
    assert canvas.screenshot() != before, "dragging turns the view"

    page.locator(".look summary").click()
    page.get_by_label("Confidence filter").fill("50")
    points_shown(page, surest(files, 0.5))
    page.get_by_text("This frame", exact=True).click()
    points_shown(page, surest(files, 0.5, 0))
    page.get_by_label("Timeline", exact=True).last.fill("3")
    page.get_by_text("4 / 5").wait_for()
    points_shown(page, surest(files, 0.5, 3))
    before = canvas.screenshot()
    page.get_by_text("Fly along").click()
    page.get_by_role("button", name="Reset view").and_(page.locator(":disabled")).wait_for()
    assert canvas.screenshot() != before, "the view is the camera's now"
    if plays_h264(page):
        page.wait_for_function("[...document.querySelectorAll('video')].filter((v) => v.readyState > 1).length === 3")
        times = page.evaluate("[...document.querySelectorAll('video')].map((video) => video.currentTime)")
        assert times == pytest.approx([3.5 / 5] * 3), "three players show one frame"

    page.get_by_role("button", name="Download").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="points.glb").click()
    assert download.value.suggested_filename.endswith("points.glb")
    download.value.save_as(tmp_path / "cloud.glb")
    assert (tmp_path / "cloud.glb").read_bytes() == (files / "points.glb").read_bytes()

    if plays_h264(page):
        page.get_by_role("button", name="Continue from last frame").click()
        page.get_by_role("heading", name="Create a world").wait_for()
        page.get_by_text(f"{W} × {H} pixels").wait_for()
        assert page.get_by_label("Prompt", exact=True).input_value() == "a sunny room"
        sent = page.evaluate("fetch(document.querySelector('.drop img').src).then((a) => a.arrayBuffer())"
                             ".then((b) => btoa(String.fromCharCode(...new Uint8Array(b))))")  # fmt: skip
        frame = np.asarray(Image.open(io.BytesIO(base64.b64decode(sent))).convert("RGB"), dtype=float)
        assert frame.shape == (H, W, 3)

    page.goto(f"{server.url}/#/world/video_{'0' * 24}")
    page.get_by_role("heading", name="World not found").wait_for()


@pytest.mark.slow
def test_a_frame_rate_that_arrives_late_leaves_the_world_complete(server, open_page, image):
    page = open_page(server.url)
    held = []
    page.route("**/content?variant=world*", lambda route: held.append(route))
    make(page, image, "a slow room")
    page.get_by_role("heading", name="a slow room").wait_for()
    if not plays_h264(page):
        pytest.skip("this Chromium decodes no H.264")
    button = page.get_by_role("button", name="Continue from last frame")
    button.and_(page.locator(":enabled")).wait_for()
    assert held, "the page asks for the facts of the world"
    with page.expect_response("**/content?variant=world*") as answer:
        for route in held:
            route.continue_()
    answer.value.finished()
    page.wait_for_timeout(1000)
    button.and_(page.locator(":enabled")).wait_for()


@pytest.mark.slow
def test_everything_by_keyboard(server, open_page, image):
    page = open_page(server.url)
    page.get_by_text("Example worlds").wait_for()
    tab_to(page, "Image")
    by_key(page, "Space").set_files(str(image))
    tab_to(page, "Prompt")
    page.keyboard.type("a quiet room")
    tab_to(page, "Orbit")
    page.keyboard.press("ArrowRight")
    tab_to(page, "Distance")
    page.keyboard.press("ArrowRight")
    page.get_by_text("length 0.31").wait_for()
    tab_to(page, "Create world")
    page.keyboard.press("Enter")
    page.locator(".stage-facts[data-count]:not([data-count='0'])").wait_for()
    assert page.evaluate("document.activeElement.id") == "main", "a new page is read from its beginning"
    canvas = page.get_by_role("application")
    tab_to(page, canvas.get_attribute("aria-label"))
    before = canvas.screenshot()
    page.keyboard.press("ArrowLeft")
    assert canvas.screenshot() != before, "arrow keys turn the view"
    tab_to(page, "Timeline")
    page.keyboard.press("ArrowRight")
    page.get_by_text("2 / 5").wait_for()
    tab_to(page, "Loop")
    page.keyboard.press("Shift+Tab")
    tab_to(page, "Loop")
    page.get_by_role("button", name="Delete").focus()
    page.keyboard.press("Enter")
    page.get_by_role("dialog").get_by_text("cannot be undone").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("dialog").wait_for(state="detached")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Delete", "the focus comes back"


@pytest.mark.slow
def test_a_phone_in_chinese_at_night(server, open_page, image):
    page = open_page(
        server.url, width=390, height=844, locale="zh-CN", color_scheme="dark", has_touch=True, is_mobile=True
    )
    page.get_by_role("heading", name="创建一个世界").wait_for()
    assert page.evaluate("[document.documentElement.lang, document.documentElement.dataset.theme]") == ["zh-CN", "dark"]
    page.get_by_text("示例世界").first.wait_for()
    assert serious(page) == []
    make(page, image, "安静的房间", create="创建世界", label="提示词")
    page.get_by_role("heading", name="安静的房间").wait_for()
    page.locator(".stage-facts[data-count]:not([data-count='0'])").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert serious(page) == []
    page.get_by_role("button", name="显示世界列表").tap()
    page.get_by_role("link", name="新建世界").tap()
    page.get_by_role("heading", name="创建一个世界").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.get_by_label("提示词", exact=True).input_value() == "安静的房间", "the draft is kept"


@pytest.mark.slow
def test_keyframes_and_files_shape_the_path(server, open_page, image):
    page = open_page(server.url, reduced_motion="reduce")
    page.get_by_text("Camera path", exact=True).first.click()
    page.get_by_text("5 frames").wait_for()
    page.get_by_text("Keyframes", exact=True).click()
    page.get_by_label("Position x").fill("2")
    page.get_by_label("Position y").fill("0")
    page.get_by_label("Position z").fill("0")
    page.get_by_text("5 frames · length 2").wait_for()
    page.get_by_role("button", name="Add this view").click()
    page.get_by_role("button", name="Keyframe 3", exact=True).wait_for()
    assert serious(page) == []
    page.get_by_text("File", exact=True).click()
    page.get_by_role("textbox", name="Camera path").fill('{"poses_c2w": [[1]]}')
    page.get_by_text("poses_c2w.0").wait_for()
    lines = [f"{n} 0.9 1.6 0.5 0.5 0 0 1 0 0 {-n / 4} 0 1 0 0 0 0 1 0" for n in range(5)]
    page.set_input_files("input[accept='.json,.txt']", {
        "name": "path.txt", "mimeType": "text/plain", "buffer": "\n".join(["clip", *lines]).encode(),
    })  # fmt: skip
    page.get_by_text("5 frames · length 1").wait_for()
    make(page, image, "along a file")
    page.get_by_text("5 frames · seed 0 · File").wait_for()
