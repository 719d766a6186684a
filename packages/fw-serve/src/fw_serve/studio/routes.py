"""GET / and the files of the page. They need no key: the page itself asks for one when the API does.

Names are looked up in a table of what the build wrote, never joined to a path.
"""

from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from fw_serve.api.errors import error_response

STATIC = Path(__file__).parent / "static"
"""What `npm run build` in apps/studio writes."""

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "media-src 'self' blob:",
        "connect-src 'self' blob:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""Everything from this server; blob: for files that the page fetched with a key, and for the dropped image."""

_MEDIA_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_FILES = {path.name: path for path in (STATIC / "studio").iterdir() if path.suffix in _MEDIA_TYPES}


async def page(_request: Request) -> Response:
    """The page."""
    headers = {"Content-Security-Policy": CONTENT_SECURITY_POLICY, "Cache-Control": "no-cache"}
    return FileResponse(STATIC / "index.html", media_type="text/html", headers=headers)


async def page_file(request: Request) -> Response:
    """A script, style or image of the page. Its name holds a digest of its content, so it is kept for ever."""
    path = _FILES.get(request.path_params["name"])
    if path is None:
        return error_response(404, "The page has no such file; load it again.")
    headers = {"Cache-Control": "public, max-age=31536000, immutable"}
    return FileResponse(path, media_type=_MEDIA_TYPES[path.suffix], headers=headers)


ROUTES = [
    Route("/", page, methods=["GET"], include_in_schema=False),
    Route("/studio/{name}", page_file, methods=["GET"], include_in_schema=False),
]
"""For the application."""
