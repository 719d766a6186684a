"""What strangers try: paths, addresses, bombs, other people's jobs, pages of other sites. None gets through."""

import io
import socket
import struct
import time
import zlib
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from PIL import Image

from fw_model.pipeline.settings import Sampling
from fw_serve.api.app import create_app
from fw_serve.api.service import Service
from fw_serve.intake import camera
from fw_serve.intake.fetch import Fetcher, FetchError, is_public
from fw_serve.intake.images import BadImageError, ImageDecoder
from fw_serve.jobs.keys import KeyRing
from fw_serve.jobs.store import JobStore
from fw_serve.prepare import is_loopback, needs_keys
from fw_serve.settings import Limits, Settings
from fw_serve.storage import JobStorage, StorageError

SECRET = "the secret beside the storage"

TRAVERSALS = [
    f"{up * depth}{target}"
    for up in ("../", "..\\", "%2e%2e/", "..%2f", "%2e%2e%2f", "..%5c", "....//", "..;/", "%252e%252e%252f", "..%c0%af")
    for depth, target in ((1, "secret"), (3, "secret"), (6, "etc/passwd"), (2, "jobs.db"))
] + [
    "/etc/passwd", "//etc/passwd", "\\\\host\\share", "C:\\Windows\\win.ini", "file:///etc/passwd", "~/secret", "~root",
    ".", "..", "...", "./secret", "secret\0.mp4", "secret%00.mp4", "\0", "video.mp4/../../secret", "a/./../secret",
    "\u2025/secret", "\uff0e\uff0e/secret", "\u2024\u2024/secret", "%u002e%u002e/secret", "\u2215etc\u2215passwd",
    "CON", "-rf", "*", "video_*", "$HOME", "`id`", "$(id)", "a" * 5000, ".partial-x", "link", "link/secret", " ", "\n",
]  # fmt: skip

PRIVATE = [
    "http://127.0.0.1/", "http://localhost/", "http://127.1/", "http://2130706433/", "http://0x7f000001/",
    "http://0177.0.0.1/", "http://0/", "http://0.0.0.0/", "http://[::1]/", "http://[::]/", "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/", "http://[::127.0.0.1]/", "http://[64:ff9b::7f00:1]/", "http://[2002:7f00:1::]/",
    "http://169.254.169.254/latest/meta-data/", "http://[fd00:ec2::254]/", "http://metadata.google.internal/",
    "http://10.0.0.1/", "http://172.16.0.1/", "http://192.168.1.1/", "http://100.64.0.1/", "http://[fe80::1]/",
    "http://[fe80::1%25eth0]/", "http://[fc00::1]/", "http://224.0.0.1/", "http://255.255.255.255/",
    "https://allowed.example@127.0.0.1/", "https://127.0.0.1#@allowed.example/", "https://allowed.example:22/",
    "https://allowed.example:8443/", "https://allowed.example.evil.example/", "https://evil.example/allowed.example",
    "https://allowed.example\\@evil.example/", "https://allowed.example%2f@evil.example/", "file:///etc/passwd",
    "gopher://allowed.example/", "ftp://allowed.example/", "dict://allowed.example/", "jar:https://allowed.example!/",
    "https:allowed.example", "//allowed.example/", "https://", "https://[", "https://allowed.example:99999/",
    "https://allowed.example\r\nHost: evil/", "https://allowed.example\t/", "https://\u2460\u2461\u2466.0.0.1/",
    "https://user:pw@allowed.example/", "http://allowed.example/", "https://inside.example/", "https://both.example/",
    "https://gone.example/", "https://rebinds.example/",
]  # fmt: skip


def test_there_are_enough_payloads():
    assert len(set(TRAVERSALS)) >= 60
    assert len(set(PRIVATE)) >= 40


@pytest.fixture
def app(tmp_path):
    """(store, a call that answers one request) of an application with keys off."""
    made = []

    def make(**settings):
        data = tmp_path / "inner" / "data"
        (tmp_path / "inner").mkdir(exist_ok=True)
        (tmp_path / "inner" / "secret").write_text(SECRET)
        url = f"sqlite:///{tmp_path / 'inner' / 'jobs.db'}"
        store = JobStore(url)
        made.append(store)
        application = create_app(Settings(data=data, database=url, **settings), store)
        service: Service = application.state.service

        async def ask(method, path, **request):
            transport = httpx.ASGITransport(application)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
                return await http.request(method, path, **request)

        def call(method, path, **request):
            import asyncio

            return asyncio.run(ask(method, path, **request))

        return service, call

    yield make
    for store in made:
        store.close()


def test_no_path_leads_out_of_the_storage(tmp_path):
    storage = JobStorage(tmp_path / "data")
    (tmp_path / "secret").write_text(SECRET)
    storage.put_inputs("job", {"image.png": b"x"})
    (tmp_path / "data" / "inputs" / "job" / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "data" / "inputs" / "linked").symlink_to(tmp_path)
    assert storage.input("job", "image.png").read_bytes() == b"x"
    for payload in TRAVERSALS:
        for parts in (("job", payload), (payload, "image.png"), (payload, payload)):
            with pytest.raises(StorageError):
                storage.input(*parts)
        with pytest.raises(StorageError):
            storage.result("job", payload, "video.mp4")
    with pytest.raises(StorageError):
        storage.input("linked", "secret")
    for payload in TRAVERSALS:
        for act in (storage.remove, storage.begin, lambda name: storage.put_inputs(name, {"image.png": b"x"})):
            if payload not in ("CON", "link"):  # harmless names
                with pytest.raises(StorageError):
                    act(payload)
    assert (tmp_path / "secret").read_text() == SECRET


def test_no_path_in_a_request_leads_out(server, image):
    video = server.create("x", image).json()["id"]
    server.finished(video)
    for payload in TRAVERSALS:
        safe = quote(payload[:200], safe="").replace(".", "%2E")  # dots that the client would take away
        answers = [
            server.http.get(f"/v1/videos/{safe}"),
            server.http.get(f"/v1/videos/{safe}/content"),
            server.http.get(f"/v1/videos/{video}/content", params={"variant": payload}),
            server.http.get(f"/v1/videos/{video}/content", params={"format": payload}),
            server.http.get("/v1/videos", params={"after": payload}),
            server.http.delete(f"/v1/videos/{safe}"),
            server.http.post(f"/v1/videos/{safe}/remix", json={"prompt": "x"}),
            server.http.post("/v1/videos", data={"prompt": "x", "model": payload}, files={"input_reference": image}),
        ]
        assert {answer.status_code // 100 for answer in answers} == {4}, payload
        assert not any(b"root:" in answer.content or SECRET.encode() in answer.content for answer in answers)
    assert server.get(video)["status"] == "completed"


def test_names_of_uploads_are_never_used(server, image):
    for payload in TRAVERSALS[:8]:
        files = {"input_reference": (payload, image)}
        assert server.http.post("/v1/videos", data={"prompt": "x"}, files=files).status_code == 200
    names = {path.name for path in (server.folder / "data" / "inputs").glob("*/*")}
    assert names == {"image.png", "camera.json"}


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    storage = JobStorage(tmp_path)

    def fail(_handle):
        raise OSError("disk full")

    monkeypatch.setattr("fw_serve.storage.os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        storage.put_inputs("job", {"image.png": b"x"})
    assert list((tmp_path / "inputs").iterdir()) == []


def test_the_sweep_takes_what_nobody_names_and_only_that(tmp_path):
    import os

    storage = JobStorage(tmp_path)
    for name in ("kept", "orphan", "young"):
        storage.put_inputs(name, {"image.png": b"x"})
    for attempt in ("good", "late"):
        (storage.begin(attempt) / "video.mp4").write_bytes(b"v")
        storage.publish("kept", attempt)
    for attempt in ("running", "dead"):
        storage.begin(attempt)
    old = time.time() - 7200
    for path in (*tmp_path.glob("*/*"), *tmp_path.glob("results/*/*")):
        if path.name != "young":
            os.utime(path, (old, old))
    assert storage.sweep({"kept": "good"}, {"running"}) == 3
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("*/*")}
    assert left == {"inputs/kept", "inputs/young", "results/kept", "work/running"}
    assert [path.name for path in (tmp_path / "results" / "kept").iterdir()] == ["good"]


ADDRESSES = {
    "allowed.example": ["93.184.216.34"],
    "inside.example": ["10.0.0.7"],
    "both.example": ["93.184.216.34", "127.0.0.1"],
    "gone.example": [],
    "rebinds.example": ["169.254.169.254"],
}


class Wire:
    """Connections that answer from a script, and remember where they went."""

    def __init__(self, *answers):
        self.answers, self.went, self.ends = list(answers), [], []

    def connect(self, address, port, _timeout):
        self.went.append((address, port))
        ours, theirs = socket.socketpair()
        theirs.sendall(self.answers.pop(0))
        theirs.shutdown(socket.SHUT_WR)
        self.ends.append(theirs)
        return ours


@pytest.fixture
def wire():
    """Makes wires, and closes them."""
    wires = []

    def make(*answers):
        wires.append(Wire(*answers))
        return wires[-1]

    yield make
    for made in wires:
        for end in made.ends:
            end.close()


def fetcher(wire, *hosts, **limits):
    resolve = lambda host, _port: ADDRESSES.get(host, [host])  # noqa: E731
    limits = {"max_bytes": 1000, **limits}
    return Fetcher(hosts or ("http://allowed.example",), resolve=resolve, connect=wire.connect, **limits)


@pytest.mark.parametrize("payload", PRIVATE)
def test_no_address_leads_inside(payload, wire):
    line = wire()
    strict = ("allowed.example", "inside.example", "both.example", "gone.example", "rebinds.example")
    with pytest.raises(FetchError):
        fetcher(line, *strict).fetch(payload)
    assert line.went == []


def test_no_address_is_public_that_is_not():
    inside = [url.split("//")[1].rstrip("/").strip("[]") for url in PRIVATE[:27] if "." in url or ":" in url]
    assert not any(is_public(host.split("/")[0]) for host in inside)
    assert is_public("93.184.216.34")
    assert is_public("2606:2800:220:1::")


def test_fetching_pins_the_address_and_checks_every_redirect(wire):
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"
    hop = b"HTTP/1.1 302 Found\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n"
    line = wire(hop % b"/next", ok)
    assert fetcher(line).fetch("http://allowed.example/a") == b"abc"
    assert line.went == [("93.184.216.34", 80)] * 2
    for target in (b"http://127.0.0.1/", b"http://inside.example/", b"file:///etc/passwd", b"//169.254.169.254/", b""):
        line = wire(hop % target, *[hop % target] * 3)
        with pytest.raises(FetchError):
            fetcher(line, "http://allowed.example", "http://inside.example").fetch("http://allowed.example/a")
        assert {address for address, _ in line.went} == {"93.184.216.34"}
    with pytest.raises(FetchError, match="3"):
        fetcher(wire(*[hop % b"/again"] * 9)).fetch("http://allowed.example/")
    with pytest.raises(FetchError, match="1000"):
        fetcher(wire(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 5000)).fetch("http://allowed.example/")
    with pytest.raises(FetchError, match="404"):
        fetcher(wire(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")).fetch("http://allowed.example/")
    with pytest.raises(FetchError, match=r"allowed\.example"):
        fetcher(wire(b"nonsense")).fetch("http://allowed.example/")


def test_fetching_is_off_and_hosts_are_names(server, wire):
    body = {"prompt": "x", "input_reference": {"image_url": "https://example.org/a.png"}}
    error = server.http.post("/v1/videos", json=body).json()["error"]
    assert (error["code"], error["param"]) == ("invalid_image", "input_reference")
    for host in ("*", "https://a/b", "a:80", ""):
        with pytest.raises(ValueError, match="fetch-host"):
            Fetcher([host], max_bytes=1)
    assert fetcher(wire(), "*.allowed.example")._allowed("https", "x.allowed.example")
    assert not fetcher(wire(), "*.allowed.example")._allowed("https", "allowed.example.evil")


def png(width, height, *chunks, data=b""):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    inner = b"".join(chunk(*pair) for pair in chunks)
    return b"\x89PNG\r\n\x1a\n" + header + inner + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def saved(kind, size=(64, 64), **options):
    out = io.BytesIO()
    Image.new("RGB", size).save(out, kind, **options)
    return out.getvalue()


ZEROS = zlib.compress(bytes(30_000_000), 9)
JPEG_65535 = saved("JPEG").replace(b"\x00\x11\x08\x00\x40\x00\x40", b"\x00\x11\x08\xff\xff\xff\xff")
BOMBS = {
    "10 Gpx PNG": png(100_000, 100_000, data=zlib.compress(bytes(1000))),
    "41 Mpx PNG": png(6_400, 6_500, data=zlib.compress(bytes(1000))),
    "2^31 wide PNG": png(2**31 - 1, 1, data=b""),
    "tall PNG": png(1, 2**31 - 1),
    "zero PNG": png(0, 0),
    "small header, 30 MB of pixels": png(16, 16, data=b"x" + ZEROS),
    "zTXt bomb": png(64, 64, (b"zTXt", b"k\0\0" + ZEROS), data=zlib.compress(bytes(64 * 193))),
    "iTXt bomb": png(64, 64, (b"iTXt", b"k\0\1\0\0\0" + ZEROS), data=zlib.compress(bytes(64 * 193))),
    "90 zTXt chunks": png(64, 64, *[(b"zTXt", b"k\0\0" + zlib.compress(bytes(1_000_000)))] * 90, data=b""),
    "65535 x 65535 JPEG": JPEG_65535,
    "cut JPEG": saved("JPEG", (900, 900))[:700],
    "cut PNG": saved("PNG", (900, 900))[:60],
    "animated PNG": saved("PNG", save_all=True, append_images=[Image.new("RGB", (64, 64), "red")] * 50),
    "animated WebP": saved("WEBP", save_all=True, append_images=[Image.new("RGB", (64, 64), "red")] * 50),
    "GIF": saved("GIF"),
    "BMP of 2 Gpx": saved("BMP").replace(struct.pack("<ii", 64, 64), struct.pack("<ii", 50_000, 50_000)),
    "TIFF": saved("TIFF"),
    "PPM": b"P6 99999 99999 255\n",
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
    "gzip": zlib.compress(bytes(10_000_000)),
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99999 99999\n",
    "empty": b"",
    "one pixel": saved("PNG", (1, 1)),
}  # fmt: skip


@pytest.fixture(scope="module")
def decoder():
    decoder = ImageDecoder(processes=1)
    decoder.start()
    decoder.decode(saved("PNG"))
    yield decoder
    decoder.close()


def test_there_are_enough_bombs():
    assert len(BOMBS) >= 20
    assert saved("JPEG") != JPEG_65535


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_in_little_memory(decoder, name):
    with pytest.raises(BadImageError):
        decoder.decode(BOMBS[name])
    process = decoder._free.get()
    decoder._free.put(process)
    if process is not None:
        status = Path(f"/proc/{process.process.pid}/status").read_text().splitlines()
        peak_kb = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
        assert peak_kb < 150_000
    assert decoder.decode(saved("PNG")).png.startswith(b"\x89PNG"), "the next image is taken"


def test_good_images_come_back_clean_and_upright(decoder):
    exif = Image.Exif()
    exif[274] = 6
    exif[270] = "where I live"
    source = saved("JPEG", (64, 32), exif=exif)
    png, notes = decoder.decode(source)
    clean = Image.open(io.BytesIO(png))
    assert ["EXIF" in note for note in notes] == [True]
    assert (clean.size, clean.mode, clean.format) == ((32, 64), "RGB", "PNG")
    assert not clean.getexif()
    two = saved("MPO", save_all=True, append_images=[Image.new("RGB", (64, 64), "red")])
    assert Image.open(io.BytesIO(decoder.decode(two).png)).getpixel((3, 3)) == (0, 0, 0)
    out = io.BytesIO()
    Image.new("RGBA", (20, 20), (255, 0, 0, 255)).save(out, "WEBP", lossless=True)
    assert Image.open(io.BytesIO(decoder.decode(out.getvalue()).png)).getpixel((3, 3)) == (255, 0, 0)


def test_a_decoder_that_hangs_or_dies_is_replaced():
    decoder = ImageDecoder(processes=1, deadline_s=0.0)
    with pytest.raises(BadImageError):
        decoder.decode(saved("PNG"))
    decoder.deadline_s = 60.0
    assert decoder.decode(saved("PNG")).png.startswith(b"\x89PNG")
    decoder.close()


@pytest.mark.parametrize(
    "content",
    [
        b"1\n" * 1_900_000,
        b"1 " * 1_900_000,
        b'{"poses_c2w":[' + b"1," * 1_900_000 + b"1]}",
        b'{"frames":[' + b"{}," * 1_200_000 + b"{}]}",
        b"{" + b",".join(b'"k%d":1' % number for number in range(300_000)) + b"}",
    ],
    ids=["lines", "columns", "poses", "frames", "keys"],
)
def test_camera_files_of_a_million_entries_are_refused_before_they_are_looked_at(content, monkeypatch):
    def looked_at(*_):
        raise AssertionError("a formats reader saw it")

    monkeypatch.setattr(camera, "detect_content", looked_at)
    monkeypatch.setattr(camera, "_validated", looked_at)
    with pytest.raises(camera.BadCameraError, match="the maximum is 1024"):
        camera.read_camera(content, num_frames=None, default_num_frames=5, width=48, height=32)


def test_large_bodies_are_refused_before_they_are_read(server, image):
    assert server.create("x" * 30_000, image + bytes(3_000_000)).status_code == 413

    def stream():
        for _ in range(40):
            yield bytes(100_000)

    headers = {"Content-Type": "application/json"}
    answer = server.http.post("/v1/videos", content=stream(), headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")


def test_too_many_form_parts_are_refused(server, image):
    for files, data in (
        ([("input_reference", image)] * 9, {}),
        ({"input_reference": image}, dict.fromkeys(map(str, range(99)), "x")),
    ):
        answer = server.http.post("/v1/videos", data={"prompt": "x", **data}, files=files)
        assert answer.status_code == 400


def test_headers_of_every_answer(server):
    for path in ("/livez", "/v1/videos", "/nothing", "/openapi.json"):
        headers = server.http.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-frame-options"] == "DENY"


def test_pages_of_other_sites_and_rebound_names_get_nothing(server, image):
    files = {"input_reference": image}
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}):
        answer = server.http.post("/v1/videos", data={"prompt": "x"}, files=files, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "cross_site")
    for host in ("evil.example", "evil.example:8000", "localhost.evil.example", ""):
        answer = server.http.get("/v1/videos", headers={"Host": host})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "host_not_allowed")
    assert server.http.get("/v1/videos", headers={"Host": "LOCALHOST:1234"}).status_code == 200
    own = server.url.rstrip("/")
    assert server.http.post("/v1/videos", data={"prompt": ""}, headers={"Origin": own}).status_code == 400


def test_keys_open_only_what_is_theirs(app, image, caplog):
    service, call = app(keys=True, limits=Limits(queue=9))
    from fw_serve.jobs.model import ModelCard

    card = ModelCard(name="m", settings=Sampling(num_frames=5, width=48, height=32))
    service.fleet.announce("w", "ready", card)
    anna, ben = (KeyRing(service.store).add(name, per_minute=3, max_queued=2) for name in ("anna", "ben"))

    def ask(key, method="GET", path="/v1/videos", **request):
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        return call(method, path, headers=headers, **request)

    for wrong in (None, "", "sk-123", anna[:-1], anna + "x"):
        answer = ask(wrong)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
        assert answer.headers["www-authenticate"] == "Bearer"
    assert ask(None, path="/livez").status_code == 200
    assert ask(None, path="/metrics").status_code == 401
    create = {"method": "POST", "data": {"prompt": "x"}, "files": {"input_reference": image}}
    first = ask(anna, **create)
    assert first.status_code == 200
    video = f"/v1/videos/{first.json()['id']}"
    assert ask(anna, path=video).status_code == 200
    for method, path in (
        ("GET", video),
        ("DELETE", video),
        ("GET", f"{video}/content"),
        ("POST", f"{video}/cancel"),
        ("GET", f"{video}/events"),
    ):
        assert ask(ben, method, path).status_code == 404
    assert ask(ben).json()["data"] == []
    assert ask(anna, **create).status_code == 200
    refused = ask(anna, **create)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
    service.store.cancel(first.json()["id"], anna.split("-")[1])
    assert ask(anna, **create).status_code == 200
    limited = ask(anna, **create)
    assert (limited.status_code, limited.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert 1 <= int(limited.headers["retry-after"]) <= 61
    assert ask(ben, **create).status_code == 200, "one key's limits are not another's"
    service.keys.revoke(anna.split("-")[1])
    assert ask(anna).status_code == 401
    assert not [line for line in caplog.messages if anna[12:] in line or ben[12:] in line]
    service.decoder.close()


def test_other_addresses_need_keys():
    assert [is_loopback(host) for host in ("127.0.0.1", "localhost", "::1", "127.8.8.8")] == [True] * 4
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "example.org", "")] == [False] * 5
    assert not needs_keys("127.0.0.1", "auto", has_keys=False)
    assert needs_keys("127.0.0.1", "auto", has_keys=True)
    assert needs_keys("0.0.0.0", "auto", has_keys=True)
    with pytest.raises(ValueError, match=r"0\.0\.0\.0.*fw-serve key add"):
        needs_keys("0.0.0.0", "auto", has_keys=False)
    with pytest.raises(ValueError, match="--keys off"):
        needs_keys("0.0.0.0", "off", has_keys=True)
    with pytest.raises(ValueError, match=r"--keys on.*fw-serve key add"):
        needs_keys("127.0.0.1", "on", has_keys=False)
