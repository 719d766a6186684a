"""/v1/shared/{token}: read-only links to a world, without an API key. The token is the only way in."""

import re

from fastapi import APIRouter
from starlette.responses import FileResponse, Response

from fw_serve.api.content import CONTENT_RESPONSES, FormatQuery, VariantQuery, content_of
from fw_serve.api.errors import ApiError, answers
from fw_serve.api.schemas import Video
from fw_serve.api.service import Service, Services, share_digest
from fw_serve.jobs.model import Job

router = APIRouter(prefix="/v1/shared", tags=["sharing"])

_TOKEN = re.compile(r"[A-Za-z0-9_-]{32}")


@router.get("/{token}", response_model=Video, responses=answers(403, 404))
def get_shared(token: str, service: Services) -> Response:
    """Get a shared video."""
    return Response(Video.of(_shared(service, token)).model_dump_json(), media_type="application/json")


@router.get(
    "/{token}/content",
    response_class=FileResponse,
    responses={**CONTENT_RESPONSES, **answers(400, 403, 404, 409)},
)
def get_shared_content(
    token: str,
    service: Services,
    variant: VariantQuery = "video",
    format: FormatQuery = None,  # noqa: A002
) -> Response:
    """Download one file of a shared video."""
    return content_of(service, _shared(service, token), variant, format)


def _shared(service: Service, token: str) -> Job:
    job = service.store.shared(share_digest(token)) if _TOKEN.fullmatch(token) else None
    if job is None:
        raise ApiError(404, "This link is invalid, or its world was deleted.", code="video_not_found", param="token")
    return job
