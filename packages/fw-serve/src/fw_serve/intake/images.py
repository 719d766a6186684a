"""Decoding of untrusted images in separate processes, which may crash without harm."""

import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from queue import LifoQueue
from typing import NamedTuple

DEADLINE_S = 60.0
"""Maximum seconds to decode an image."""

RECYCLE_AFTER = 500
"""A decoding process is replaced after this many images."""


class BadImageError(ValueError):
    """An image that cannot be used; the message is for its sender."""


class DecodedPng(NamedTuple):
    """A decoded image."""

    png: bytes
    """An upright RGB PNG without metadata."""
    notes: tuple[str, ...]
    """Changes that reading the image made."""


class ImageDecoder:
    """Decodes images in limited processes, which start when they are first needed.

    Args:
        processes: number of concurrent processes; further calls wait.
        deadline_s: maximum seconds per image.
    """

    def __init__(self, *, processes: int = 2, deadline_s: float = DEADLINE_S) -> None:
        self.deadline_s = deadline_s
        self._free: LifoQueue[_Process | None] = LifoQueue()
        for _ in range(processes):
            self._free.put(None)

    def start(self) -> None:
        """Start the first process, so that the first image does not wait for it to start."""
        process = self._free.get()
        self._free.put(process or _Process())

    def decode(self, content: bytes) -> DecodedPng:
        """Decode an image to an RGB PNG without metadata.

        Raises:
            BadImageError: not a PNG, JPEG or WebP, damaged, too large, animated, or too slow to decode.
        """
        process = self._free.get()
        try:
            process = process or _Process()
            answer = process.ask(content, self.deadline_s)
            if process.done >= RECYCLE_AFTER:
                process.stop()
                process = None
        except (EOFError, OSError):
            if process is not None:
                process.stop()
                process = None
            raise BadImageError(
                "the image could not be decoded within the limits of time and memory; send a smaller one"
            ) from None
        finally:
            self._free.put(process)
        kind, rest = answer[:1], answer[1:]
        if kind != b"P":
            raise BadImageError(rest.decode(errors="replace"))
        notes, _, png = rest.partition(b"\n")
        return DecodedPng(png, tuple(json.loads(notes)))

    def close(self) -> None:
        """End all idle processes."""
        for _ in range(self._free.qsize()):
            process = self._free.get()
            if process is not None:
                process.stop()
            self._free.put(None)


class _Process:
    """One decoding process and the pipe to it."""

    def __init__(self) -> None:
        ours, theirs = Pipe()
        self.pipe: Connection = ours
        self.done = 0
        command = [sys.executable, "-m", "fw_serve.intake.decoder", str(theirs.fileno())]
        environment = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LANG") if name in os.environ}
        environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # each thread reserves address space
        self.process = subprocess.Popen(
            command,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        theirs.close()

    def ask(self, content: bytes, deadline_s: float) -> bytes:
        """Return the answer. Raises EOFError or OSError if the process died or was killed at the deadline."""
        watch = threading.Timer(deadline_s, self.process.kill)
        watch.start()
        try:
            self.pipe.send_bytes(content)
            self.done += 1
            return self.pipe.recv_bytes()
        finally:
            watch.cancel()

    def stop(self) -> None:
        """Kill the process."""
        self.process.kill()
        with suppress(OSError):
            self.pipe.close()
        self.process.wait()
