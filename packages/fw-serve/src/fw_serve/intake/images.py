"""Decoding of untrusted images in separate processes, which may crash without harm."""

import os
import subprocess
import sys
import threading
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from queue import LifoQueue

DEADLINE_S = 20.0
"""An image that takes longer to decode is refused."""

RECYCLE_AFTER = 500
"""Images after which a decoding process is replaced by a new one."""


class BadImageError(ValueError):
    """An image that is not taken; the message is for its sender."""


class ImageDecoder:
    """Decodes images in limited processes, which start when they are first needed.

    Args:
        processes: how many may decode at once; others wait for their turn.
        deadline_s: time for one image.
    """

    def __init__(self, *, processes: int = 2, deadline_s: float = DEADLINE_S) -> None:
        self.deadline_s = deadline_s
        self._free: LifoQueue[_Process | None] = LifoQueue()
        for _ in range(processes):
            self._free.put(None)

    def start(self) -> None:
        """Start the first process, so that the first image does not wait for it."""
        process = self._free.get()
        self._free.put(process or _Process())

    def decode(self, content: bytes) -> bytes:
        """The image as an RGB PNG without metadata.

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
        return rest

    def close(self) -> None:
        """End all processes that are not at work."""
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
        """The answer, or EOFError or OSError if the process died or had to be killed."""
        watch = threading.Timer(deadline_s, self.process.kill)
        watch.start()
        try:
            self.pipe.send_bytes(content)
            self.done += 1
            return self.pipe.recv_bytes()
        finally:
            watch.cancel()

    def stop(self) -> None:
        """Kill it."""
        self.process.kill()
        with suppress(OSError):
            self.pipe.close()
        self.process.wait()
