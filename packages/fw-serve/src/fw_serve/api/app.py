"""The application: routes, guard and housekeeping around one `Service`."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.middleware.cors import CORSMiddleware

from fw_serve.api import content, errors, events, shared, system, trajectories, videos
from fw_serve.api.schemas import CreateVideo, Extend, ImageReference, Remix, TrajectoryRequest
from fw_serve.api.service import Service
from fw_serve.http.conditional import Conditional
from fw_serve.http.guard import Guard
from fw_serve.jobs.store import JobStore
from fw_serve.settings import Settings
from fw_serve.studio.routes import ROUTES as STUDIO
from fw_serve.supervisor import Supervisor

log = logging.getLogger("fw_serve.api")

HOUSEKEEPING_S = 30.0
WEBHOOKS_S = 1.0

_ABOUT = "Generates worlds from an image, a prompt and a camera path. Compatible with the OpenAI Videos API."


def create_app(settings: Settings, store: JobStore, supervisor: Supervisor | None = None) -> FastAPI:
    """Create the application.

    Args:
        settings: settings of the service.
        store: the job store.
        supervisor: started and stopped with the application; None if the workers run elsewhere.
    """
    service = Service(settings, store)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(service.decoder.start)
        if supervisor is not None:
            supervisor.start()
        keeper = asyncio.create_task(_repeat(tidy, service, HOUSEKEEPING_S))
        sender = asyncio.create_task(_repeat(lambda service: service.webhooks.send_due(), service, WEBHOOKS_S))
        yield
        if supervisor is not None:  # before the server lets the signal end the process
            await run_in_threadpool(supervisor.stop)
        for task in (keeper, sender):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        service.close()

    app = FastAPI(
        title="fantasy-world", version="1", description=_ABOUT, lifespan=lifespan, docs_url=None, redoc_url=None,
        root_path=settings.root_path,
    )  # fmt: skip
    app.state.service = service
    errors.install(app)
    parts = (videos, content, events, shared, trajectories, system)
    app.state.routes = [*STUDIO, *(route for part in parts for route in part.router.routes)]
    for part in parts:
        app.include_router(part.router)
    app.router.routes.extend(STUDIO)
    app.openapi = lambda: _openapi(app, keys=settings.keys)  # type: ignore[method-assign]
    app.add_middleware(Conditional)
    if settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(settings.allowed_origins), allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "Range", "X-Request-ID"],
            expose_headers=["ETag", "Retry-After", "X-Request-ID", "X-Queue-Position", "openai-poll-after-ms"],
            max_age=3600,
        )  # fmt: skip
    app.add_middleware(Guard, settings=settings, metrics=service.metrics)
    return app


def tidy(service: Service) -> None:
    """Requeue lost jobs, and remove expired jobs and orphaned files."""
    store = service.store
    store.reap()
    for job_id in store.expired():
        store.delete(job_id)
        service.storage.remove(job_id)
    store.purge(service.settings.purge_s)
    running = store.leases()
    service.storage.sweep(store.known(), running)
    service.fleet.prune()


async def _repeat(work: Callable[[Service], object], service: Service, pause_s: float) -> None:
    while True:
        try:
            await run_in_threadpool(work, service)
        except SQLAlchemyError as error:
            log.error("the database does not respond, trying again: %s", error)
        except Exception:
            log.exception("housekeeping failed; trying again")
        await asyncio.sleep(pause_s)


def _openapi(app: FastAPI, *, keys: bool) -> dict[str, Any]:
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        parts = schema.setdefault("components", {})
        for model in (CreateVideo, ImageReference, Remix, Extend, TrajectoryRequest):
            described = model.model_json_schema(ref_template="#/components/schemas/{model}")
            described.pop("$defs", None)
            parts["schemas"][model.__name__] = described
        if keys:
            parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            schema["security"] = [{"key": []}]
            for path in ("/livez", "/readyz", "/v1/shared/{token}", "/v1/shared/{token}/content"):
                schema["paths"][path]["get"]["security"] = []
        _without_422(schema)
        app.openapi_schema = schema
    return app.openapi_schema


def _without_422(schema: dict[str, Any]) -> None:
    """Replace FastAPI's 422 of routes with parameters; here such errors are 400."""
    for path in schema["paths"].values():
        for operation in path.values():
            responses = operation.get("responses", {})
            content_422 = str(responses.get("422", {}).get("content", ""))
            if "HTTPValidationError" in content_422:
                del responses["422"]
                described = {"$ref": "#/components/schemas/ErrorResponse"}
                responses.setdefault(
                    "400",
                    {"description": "A parameter is invalid.", "content": {"application/json": {"schema": described}}},
                )
    for name in ("HTTPValidationError", "ValidationError"):
        schema["components"]["schemas"].pop(name, None)
