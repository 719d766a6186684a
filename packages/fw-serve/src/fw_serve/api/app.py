"""The application: routes, guard and housekeeping around one `Service`."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.concurrency import run_in_threadpool

from fw_serve.api import content, errors, events, system, trajectories, videos
from fw_serve.api.guard import Guard
from fw_serve.api.schemas import CreateVideo, ImageReference
from fw_serve.api.service import Service
from fw_serve.jobs.store import JobStore
from fw_serve.settings import Settings
from fw_serve.studio.routes import ROUTES as STUDIO
from fw_serve.supervisor import Supervisor

log = logging.getLogger("fw_serve.api")

HOUSEKEEPING_S = 30.0

_ABOUT = "Generates worlds from an image, a prompt and a camera path. Compatible with the OpenAI Videos API."


def create_app(settings: Settings, store: JobStore, supervisor: Supervisor | None = None) -> FastAPI:
    """An application over a store.

    Args:
        settings: of the service.
        store: the jobs.
        supervisor: started and stopped with the application; None where other machines with the same store do the work.
    """
    service = Service(settings, store)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(service.decoder.start)
        if supervisor is not None:
            supervisor.start()
        keeper = asyncio.create_task(_keep_house(service))
        yield
        if supervisor is not None:  # here, because after this the server lets the signal end the process
            await run_in_threadpool(supervisor.stop)
        keeper.cancel()
        with suppress(asyncio.CancelledError):
            await keeper
        service.decoder.close()

    app = FastAPI(
        title="fantasy-world", version="1", description=_ABOUT, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.state.service = service
    errors.install(app)
    parts = (videos, content, events, trajectories, system)
    app.state.routes = [*STUDIO, *(route for part in parts for route in part.router.routes)]
    for part in parts:
        app.include_router(part.router)
    app.router.routes.extend(STUDIO)
    app.openapi = lambda: _openapi(app, keys=settings.keys)  # type: ignore[method-assign]
    hosts = None if settings.keys else settings.allowed_hosts
    app.add_middleware(Guard, max_body=settings.limits.upload_bytes, hosts=hosts, metrics=service.metrics)
    return app


def tidy(service: Service) -> None:
    """Once: free lost jobs, remove what has expired or belongs to nobody."""
    store = service.store
    store.reap()
    for job_id in store.expired():
        store.delete(job_id)
        service.storage.remove(job_id)
    store.purge(service.settings.purge_s)
    running = store.leases()
    service.storage.sweep(store.known(), running)
    service.fleet.prune()


async def _keep_house(service: Service) -> None:
    while True:
        try:
            await run_in_threadpool(tidy, service)
        except Exception:
            log.exception("housekeeping failed; trying again")
        await asyncio.sleep(HOUSEKEEPING_S)


def _openapi(app: FastAPI, *, keys: bool) -> dict[str, Any]:
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        parts = schema.setdefault("components", {})
        for model in (CreateVideo, ImageReference):
            described = model.model_json_schema(ref_template="#/components/schemas/{model}")
            described.pop("$defs", None)
            parts["schemas"][model.__name__] = described
        if keys:
            parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            schema["security"] = [{"key": []}]
            for path in ("/livez", "/readyz"):
                schema["paths"][path]["get"]["security"] = []
        _without_422(schema)
        app.openapi_schema = schema
    return app.openapi_schema


def _without_422(schema: dict[str, Any]) -> None:
    """FastAPI announces its own 422 for every route with parameters; here such errors are 400."""
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
