"""Interlaced video to whole frames: each frame keeps one field and interpolates the other (FFmpeg's bwdif)."""

from collections import deque
from collections.abc import Iterable, Iterator

import av
from av.filter import Graph

from fw_data.media.times import TimedImage

_FILTER = "mode=send_frame:parity=auto:deint=interlaced"


def deinterlaced(images: Iterable[TimedImage]) -> Iterator[TimedImage]:
    """The images with interlaced ones replaced; the filter starts at the first of those, and again after gaps."""
    graph: Graph | None = None
    waiting: deque[TimedImage] = deque()
    for item in images:
        if graph is not None and item.gap:
            yield from _filtered(graph, None, waiting)
            graph = None
        if graph is None and not item.image.interlaced_frame:
            yield item
            continue
        graph = graph or _make_graph(item.image)
        item.deinterlaced = bool(item.image.interlaced_frame)
        waiting.append(item)
        yield from _filtered(graph, item.image, waiting)
    if graph is not None:
        yield from _filtered(graph, None, waiting)


def _make_graph(image: av.VideoFrame) -> Graph:
    graph = Graph()
    source = graph.add_buffer(
        width=image.width, height=image.height, format=image.format, time_base=image.time_base, name="in"
    )
    deinterlacer, sink = graph.add("bwdif", _FILTER), graph.add("buffersink")
    source.link_to(deinterlacer)
    deinterlacer.link_to(sink)
    graph.configure()
    return graph


def _filtered(graph: Graph, image: av.VideoFrame | None, waiting: deque[TimedImage]) -> Iterator[TimedImage]:
    """Push an image, or None at the end, and take the finished ones, which belong to the oldest waiting items."""
    if image is not None or waiting:
        graph.push(image)
    while waiting:
        try:
            done = graph.pull()
        except (BlockingIOError, EOFError, av.EOFError):
            return
        assert isinstance(done, av.VideoFrame)
        item = waiting.popleft()
        done.pts, done.time_base = item.image.pts, item.image.time_base
        item.image = done
        yield item
