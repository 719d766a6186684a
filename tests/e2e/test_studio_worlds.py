"""The studio in a browser: failures, keys, example worlds, running and finished worlds, the list of worlds."""

from pathlib import Path

import pytest
from PIL import Image
from tests.e2e.studio import (
    W,
    make,
    points_shown,
    serious,
    surest,
)
from tests.stub_server.server_process import Server


@pytest.mark.slow
def test_what_goes_wrong_is_said_and_nothing_is_lost(tmp_path, files, open_page, image):
    server = Server(tmp_path / "server", files=str(files), workers=1).start()
    try:
        page = open_page(server.url)
        page.get_by_role("button", name="Create world").click()
        page.get_by_text("Add an image").first.wait_for()
        (tmp_path / "note.png").write_text("not a image")
        page.set_input_files("#image", str(tmp_path / "note.png"))
        page.get_by_text("note.png as an image").first.wait_for()
        Image.new("RGB", (64, 48)).save(tmp_path / "old.gif")  # the page converts it, the service knows no GIF
        page.set_input_files("#image", str(tmp_path / "old.gif"))
        page.get_by_alt_text("First frame of the world").wait_for()
        page.get_by_label("Prompt", exact=True).fill("a room oom")
        page.get_by_role("button", name="Create world").click()
        page.get_by_text("Out of memory.").first.wait_for()
        assert serious(page) == []

        page.get_by_role("link", name="New world").click()
        page.get_by_label("Prompt", exact=True).fill(f"slow hold={tmp_path / 'never'}")
        page.get_by_role("button", name="Create world").click()
        page.get_by_role("progressbar").wait_for()
        page.get_by_role("button", name="Cancel").click()
        page.get_by_text("Cancelled.", exact=True).wait_for()
        (tmp_path / "never").touch()

        page.get_by_role("link", name="New world").click()
        page.get_by_label("Prompt", exact=True).fill("a room at last")
        server.kill()
        page.get_by_role("button", name="Create world").click()
        page.get_by_role("alert").get_by_text("The service is not responding.").wait_for()
        assert page.get_by_label("Prompt", exact=True).input_value() == "a room at last"
        server.start()
        page.get_by_role("button", name="Create world").click()
        page.locator(".stage-facts[data-count]:not([data-count='0'])").wait_for()
    finally:
        server.stop()


@pytest.mark.slow
def test_a_service_with_keys_asks_for_one(tmp_path, files, open_page, image):
    from fw_serve.jobs.keys import KeyRing
    from fw_serve.jobs.store import JobStore

    server = Server(tmp_path / "server", files=str(files), keys=True).start()
    try:
        store = JobStore(f"sqlite:///{tmp_path / 'server/data/jobs.db'}")
        key = KeyRing(store).add("anna", per_minute=9, max_queued=9)
        store.close()
        page = open_page(server.url, accept_downloads=True)
        dialog = page.get_by_role("dialog", name="API key")
        dialog.get_by_label("API key").fill("fw-wrong")
        page.keyboard.press("Enter")
        dialog.get_by_text("This key is not valid.").wait_for()
        assert serious(page) == []
        dialog.get_by_label("API key").fill(key)
        page.keyboard.press("Enter")
        dialog.wait_for(state="detached")
        assert page.evaluate("[JSON.stringify(localStorage), document.cookie].join()").find(key) < 0
        assert page.evaluate("sessionStorage.getItem('fw-api-key')") == key
        make(page, image, "a locked room")
        points_shown(page, surest(files, 0.75))
        page.get_by_role("button", name="Download").click()
        with page.expect_download() as download:
            page.get_by_role("button", name="cameras.json", exact=False).first.click()
        assert Path(download.value.path()).read_bytes() == (files / "cameras.json").read_bytes()
        assert key not in page.url
    finally:
        server.stop()


@pytest.mark.slow
def test_the_first_screen_is_a_world_and_an_example_image_starts_a_draft(server, open_page, image):
    server.finished(server.create("a room that gives the service its times", image.read_bytes()).json()["id"])
    page = open_page(server.url)
    page.get_by_text("Example worlds", exact=True).wait_for()
    page.locator(".example .stage-facts[data-count]:not([data-count='0'])").wait_for()
    assert serious(page) == []
    page.get_by_role("list", name="Example images").get_by_role("button").first.click()
    page.get_by_alt_text("First frame of the world").wait_for()
    written = page.get_by_label("Prompt", exact=True).input_value()
    assert "room" in written
    page.get_by_text("About", exact=False).first.wait_for()
    box = page.get_by_role("application", name="Crop box", exact=False)
    page.get_by_label("Crop size").fill("60")
    before = box.bounding_box()
    box.focus()
    page.keyboard.press("ArrowRight")
    after = box.bounding_box()
    assert before is not None
    assert after is not None
    assert after["x"] > before["x"]
    assert serious(page) == []
    page.reload()
    page.get_by_alt_text("First frame of the world").wait_for()
    assert page.get_by_label("Prompt", exact=True).input_value() == written, "the draft survives a reload"
    assert page.get_by_label("Crop size").input_value() == "60"


@pytest.mark.slow
def test_video_and_3d_view_are_equals_and_panels_collapse(server, open_page):
    page = open_page(f"{server.url}/#/example/room-1", width=1280, height=800)
    points = page.locator(".stage-facts[data-count]:not([data-count='0'])")
    points.wait_for()
    video, stage = page.locator(".world-body .hero"), page.locator(".world-body .stage")

    def left(part):
        return part.bounding_box()["x"]

    assert left(video) < left(stage)
    assert video.bounding_box()["width"] == pytest.approx(stage.bounding_box()["width"], abs=2)
    page.get_by_role("button", name="Swap video and 3D").click()
    assert left(stage) < left(video)
    page.get_by_text("3D", exact=True).click()
    assert not video.is_visible()
    page.get_by_text("Video", exact=True).first.click()
    assert not stage.is_visible()
    page.get_by_text("Side by side", exact=True).click()
    page.get_by_text("Depth, confidence and details").click()
    assert not page.get_by_text("warm colors: near").is_visible()
    page.get_by_text("Depth, confidence and details").click()
    page.locator(".facts").get_by_text("requested path").wait_for()
    wide = stage.bounding_box()["width"]
    page.get_by_role("button", name="Hide worlds").click()
    assert stage.bounding_box()["width"] > wide
    page.get_by_text("Fly along", exact=True).click()
    assert stage.bounding_box()["width"] > 1200, "the flight fills the width"
    assert serious(page) == []


@pytest.mark.slow
def test_previews_of_a_running_world_are_still_there_after_a_reload(server, open_page, image, tmp_path):
    gate = tmp_path / "gate"
    page = open_page(server.url)
    make(page, image, f"a room in fog preview={gate}")
    frames = page.get_by_alt_text("Frames as generated so far")
    frames.wait_for()
    page.reload()
    frames.wait_for()
    width = page.evaluate("document.querySelector('.running-preview img').naturalWidth")
    assert width == 3 * W, "three columns of frames"
    assert serious(page) == []
    gate.touch()
    page.locator(".stage-facts[data-count]:not([data-count='0'])").wait_for()
    assert frames.count() == 0


@pytest.mark.slow
def test_a_large_photo_is_downscaled_and_cropped_before_it_is_sent(server, open_page, tmp_path):
    photo = tmp_path / "photo.jpg"
    Image.linear_gradient("L").resize((4000, 3000)).convert("RGB").save(photo, quality=95)
    page = open_page(server.url)
    page.set_input_files("#image", str(photo))
    page.get_by_text("2048 × 1365 of 2048 × 1536 pixels").or_(
        page.get_by_text("2,048 × 1,365 of 2048 × 1536 pixels")
    ).wait_for()
    page.get_by_label("Prompt", exact=True).fill("a large photo")
    page.get_by_role("button", name="Create world").click()
    page.get_by_role("heading", name="a large photo").wait_for()
    made = server.http.get("/v1/videos?limit=1").json()["data"][0]
    with Image.open(server.folder / "data" / "inputs" / made["id"] / "image.png") as stored:
        assert stored.size == (2048, 1365)


@pytest.mark.slow
def test_worlds_are_named_found_compared_and_shared(server, open_page, image):
    ids = []
    for number in range(4):
        made = server.create(f"world number {number}", image.read_bytes()).json()["id"]
        server.finished(made)
        ids.append(made)
    page = open_page(f"{server.url}/#/world/{ids[3]}")
    page.get_by_role("button", name="Add to favorites").click()
    page.get_by_role("button", name="Rename").click()
    page.get_by_role("dialog").get_by_label("Name").fill("my room")
    page.get_by_role("dialog").get_by_role("button", name="Save name").click()
    page.get_by_role("heading", name="my room").wait_for()
    history = page.get_by_role("navigation", name="Worlds")
    history.get_by_label("Search worlds").fill("my ro")
    assert history.get_by_role("listitem").count() == 1
    history.get_by_label("Search worlds").fill("")
    history.get_by_text("Favorites", exact=True).click()
    assert history.get_by_role("listitem").count() == 1
    history.get_by_text("All", exact=True).click()
    assert serious(page) == []

    other = page.context.new_page()
    other.goto(server.url)
    other.get_by_role("navigation").get_by_text("world number 0").wait_for()
    page.goto(f"{server.url}/#/world/{ids[0]}")
    page.get_by_role("heading", name="world number 0").wait_for()
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    other.get_by_role("navigation").get_by_text("world number 0").wait_for(state="detached")

    history.get_by_role("button", name="Compare two worlds").click()
    for name in ("my room", "world number 2"):
        history.get_by_role("button", name=name).click()
    page.get_by_role("heading", name="Comparison").wait_for()
    page.locator(".compare-pair > section").nth(1).wait_for()
    assert serious(page) == []

    page.goto(f"{server.url}/#/world/{ids[2]}")
    page.get_by_role("button", name="Share").click()
    page.get_by_role("dialog").get_by_role("button", name="Create link").click()
    link = page.get_by_label("Read-only link").input_value()
    assert "#/shared/" in link
    page.close()
    other.close()
    visitor = open_page(link)
    visitor.get_by_role("heading", name="world number 2").wait_for()
    visitor.locator(".stage-facts[data-count]:not([data-count='0'])").wait_for()
    assert visitor.get_by_role("button", name="Delete").count() == 0
    assert visitor.get_by_role("button", name="Download").count() == 1
