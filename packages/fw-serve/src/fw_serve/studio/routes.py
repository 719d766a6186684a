"""Routes of the studio: the page, its scripts, example images and example worlds. They need no API key.

Names are looked up in tables of the packaged files, never joined to a path.
"""

import gzip
import json
from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from fw_model.checkpoints.shipped import example_images
from fw_serve.api.errors import error_response
from fw_serve.http.conditional import matches

STATIC = Path(__file__).parent / "static"
"""Output of `npm run build` in apps/studio."""
EXAMPLES = Path(__file__).parent / "examples"
"""One folder per example world, written by `python apps/studio/make_examples.py`."""

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "media-src 'self' blob:",
        "connect-src 'self' blob: data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""Everything from this server; blob: for files fetched with a key, data: for the draft of the browser's storage."""

_MEDIA_TYPES = {
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".jpg": "image/jpeg",
    ".webp": "image/webp",
    ".mp4": "video/mp4",
    ".json": "application/json",
    ".bin": "application/octet-stream",
}
_FILES = {path.name: path for path in (STATIC / "studio").iterdir() if path.suffix in _MEDIA_TYPES}
_WEEK = "public, max-age=604800"


@cache
def _examples() -> dict[str, Path]:
    """Files of example worlds by NAME/FILE, and example images by NAME.jpg."""
    found = {f"{path.parent.name}/{path.name}": path for path in EXAMPLES.glob("*/*") if path.suffix in _MEDIA_TYPES}
    return found | {image.path.name: image.path for image in example_images()}


async def page(_request: Request) -> Response:
    """The page."""
    headers = {"Content-Security-Policy": CONTENT_SECURITY_POLICY, "Cache-Control": "no-cache"}
    return Response((STATIC / "index.html").read_bytes(), media_type="text/html", headers=headers)


async def page_file(request: Request) -> Response:
    """A script, style or image of the page. Its name has a digest of its content, so caches keep it forever."""
    path = _FILES.get(request.path_params["name"])
    if path is None:
        return error_response(404, "File not found; reload the page.")
    packed = "gzip" in request.headers.get("accept-encoding", "")
    headers = {"Cache-Control": "public, max-age=31536000, immutable", "ETag": f'W/"{path.name}"'}
    headers |= {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"} if packed else {}
    return Response(_content(path, packed=packed), media_type=_MEDIA_TYPES[path.suffix], headers=headers)


@cache
def _content(path: Path, *, packed: bool) -> bytes:
    """A file of the page, compressed once and not for every visitor."""
    content = path.read_bytes()
    return gzip.compress(content, 9, mtime=0) if packed else content


async def examples(_request: Request) -> Response:
    """Example images with their prompts, and example worlds as the API describes a video."""
    images = [{"name": image.name, "prompt": image.prompt, "file": image.path.name} for image in example_images()]
    worlds = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(EXAMPLES.glob("*/video.json"))]
    return JSONResponse({"images": images, "worlds": worlds}, headers={"Cache-Control": "no-cache"})


async def example_file(request: Request) -> Response:
    """A file of an example; Range and If-None-Match are supported."""
    path = _examples().get(request.path_params["name"])
    if path is None:
        return error_response(404, "Example not found.")
    response = FileResponse(
        path, media_type=_MEDIA_TYPES[path.suffix], headers={"Cache-Control": _WEEK}, stat_result=path.stat()
    )
    if matches(request.headers.get("if-none-match"), response.headers["etag"]):
        return Response(status_code=304, headers={"ETag": response.headers["etag"], "Cache-Control": _WEEK})
    return response


ROUTES = [
    Route("/", page, methods=["GET"], include_in_schema=False),
    Route("/studio/examples", examples, methods=["GET"], include_in_schema=False),
    Route("/studio/examples/{name:path}", example_file, methods=["GET"], include_in_schema=False),
    Route("/studio/{name}", page_file, methods=["GET"], include_in_schema=False),
]
"""Routes of the application."""
