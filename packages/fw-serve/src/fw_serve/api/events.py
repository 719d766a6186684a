"""/v1/videos/{id}/events: progress as server-sent events, until the video is finished."""

import asyncio
from collections.abc import AsyncIterator

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from fw_serve.api.errors import ApiError, answers
from fw_serve.api.schemas import Video
from fw_serve.api.service import Caller, Callers, Service, Services
from fw_serve.api.videos import job_of

router = APIRouter(prefix="/v1/videos", tags=["videos"])

LOOK_S = 0.25
"""Seconds between queries of the store."""
SILENCE_S = 15.0
"""Seconds without changes before a comment is sent, so that proxies keep the connection open."""


@router.get(
    "/{video_id}/events",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "`event: progress` with a Video whenever it changes; the last one is `event: done`.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        **answers(401, 403, 404, 429),
    },
)
async def follow_video(video_id: str, service: Services, caller: Callers) -> StreamingResponse:
    """Stream the progress of a video. Every event holds the complete state, so a client can reconnect at any time."""
    await run_in_threadpool(job_of, service, caller, video_id)
    limits, own = service.settings.limits, service.streams[caller.owner]
    if service.streams.total() >= limits.event_streams or (service.settings.keys and own >= limits.own_streams):
        raise ApiError(429, "Too many event streams; poll instead.", code="too_many_streams",
                       headers={"Retry-After": "5"})  # fmt: skip
    service.streams[caller.owner] += 1  # before the response begins, so that concurrent requests are counted
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return _EventStream(service, caller, video_id, headers)


class _EventStream(StreamingResponse):
    """The stream; gives its place back however it ends, also before its first event."""

    def __init__(self, service: Service, caller: Caller, video_id: str, headers: dict[str, str]) -> None:
        super().__init__(_events(service, caller, video_id), media_type="text/event-stream", headers=headers)
        self.service, self.owner = service, caller.owner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.service.streams[self.owner] -= 1
            if not self.service.streams[self.owner]:
                del self.service.streams[self.owner]


async def _events(service: Service, caller: Caller, video_id: str) -> AsyncIterator[str]:
    last, silence = "", 0.0
    while True:
        try:
            text, done = await service.watched.state(caller.owner, video_id, lambda: _state(service, caller, video_id))
        except ApiError:
            yield "event: done\ndata: null\n\n"  # it was deleted meanwhile
            return
        if text != last:
            yield f"event: {'done' if done else 'progress'}\ndata: {text}\n\n"
            last, silence = text, 0.0
        elif silence >= SILENCE_S:
            yield ": still here\n\n"
            silence = 0.0
        if done:
            return
        await asyncio.sleep(LOOK_S)
        silence += LOOK_S


def _state(service: Service, caller: Caller, video_id: str) -> tuple[str, bool]:
    video = Video.of(job_of(service, caller, video_id))
    return video.model_dump_json(), video.status in ("completed", "failed")
