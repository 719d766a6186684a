"""Fair turns, image headers and the deadline of fetches."""

import asyncio
import io
import socket
import threading
import time

import pytest
from PIL import Image

from fw_serve.intake.fetch import Fetcher, FetchError
from fw_serve.intake.image_size import image_size
from fw_serve.intake.turns import Turns, TurnsTakenError


def test_owners_take_turns_and_none_holds_every_place():
    async def scenario():
        turns, order = Turns(2, waiting=50), []
        running = {"anna": 0, "ben": 0}
        most = {"anna": 0, "ben": 0}

        async def one(owner):
            async with turns.turn(owner):
                running[owner] += 1
                most[owner] = max(most[owner], running[owner])
                order.append(owner)
                await asyncio.sleep(0)
                running[owner] -= 1

        await asyncio.gather(*[one("anna") for _ in range(40)], *[one("ben") for _ in range(3)])
        return turns, order, most

    turns, order, most = asyncio.run(scenario())
    assert most == {"anna": 1, "ben": 1}, "one place stays for others"
    assert [order.index("ben"), len(order)] == [1, 43], "the one who came last is second"
    assert (turns.free, turns.queues) == (2, {})
    assert not +turns.held


def test_a_share_of_the_waiting_is_refused_beyond_and_cancelled_turns_are_given_back():
    async def scenario():
        turns = Turns(1, waiting=2)
        async with turns.turn("anna"):
            waiting = asyncio.create_task(turns.turn("anna").__aenter__())
            await asyncio.sleep(0)
            with pytest.raises(TurnsTakenError):
                async with turns.turn("anna"):
                    pass
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        async with turns.turn("ben"):
            assert turns.free == 0
        return turns.free

    assert asyncio.run(scenario()) == 1


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "lossless", "alpha", "progressive"])
@pytest.mark.parametrize("size", [(16, 16), (333, 47), (4000, 31)])
def test_sizes_are_read_from_headers(kind, size):
    options = {"lossless": {"lossless": True}, "progressive": {"progressive": True, "exif": Image.Exif()}}.get(kind, {})
    mode = "RGBA" if kind == "alpha" else "RGB"
    name = {"lossless": "WEBP", "alpha": "WEBP", "progressive": "JPEG"}.get(kind, kind)
    out = io.BytesIO()
    Image.effect_noise(size, 50).convert(mode).save(out, name, **options)
    content = out.getvalue()
    assert image_size(content) == size
    assert image_size(b"GIF89a" + content) is None
    for cut in range(0, 40, 3):
        image_size(content[:cut])  # never raises


def test_a_slow_server_cannot_stretch_the_deadline():
    """Headers, then one byte every 50 ms: every wait of the socket is short, all of them are not."""
    listener = socket.create_server(("127.0.0.1", 0))

    def drip():
        connection, _ = listener.accept()
        with connection:
            try:
                for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"a" * 2000:
                    connection.sendall(bytes([byte]))
                    time.sleep(0.05)
            except OSError:
                return

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    port = listener.getsockname()[1]
    fetcher = Fetcher(
        ("http://slow.example",), max_bytes=1000, deadline_s=1.0, resolve=lambda *_: ["93.184.216.34"],
        connect=lambda _address, _port, timeout_s: socket.create_connection(("127.0.0.1", port), timeout_s),
    )  # fmt: skip
    began = time.monotonic()
    with pytest.raises(FetchError, match="1 s"):
        fetcher.fetch("http://slow.example/a.png")
    assert time.monotonic() - began < 10
    listener.close()
    thread.join(10)


def test_a_slow_resolver_cannot_stretch_the_deadline():
    blocked = threading.Event()
    fetcher = Fetcher(
        ("http://slow.example",), max_bytes=1000, deadline_s=0.2, resolve=lambda *_: [str(blocked.wait(60))]
    )  # fmt: skip
    with pytest.raises(FetchError, match=r"0\.2 s"):
        fetcher.fetch("http://slow.example/a.png")
    blocked.set()
