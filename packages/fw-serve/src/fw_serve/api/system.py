"""Models, health and metrics."""

from fastapi import APIRouter, Response

from fw_serve.api.errors import ApiError, answers
from fw_serve.api.schemas import Health, Model, ModelList
from fw_serve.api.service import Callers, Services
from fw_serve.jobs.model import ModelCard

router = APIRouter()


@router.get("/v1/models", response_model=ModelList, tags=["models"], responses=answers(401, 403))
def list_models(service: Services, _caller: Callers) -> ModelList:
    """List the models and their default settings."""
    return ModelList(data=[_model(card) for card in service.fleet.models()])


@router.get("/v1/models/{model_id}", response_model=Model, tags=["models"], responses=answers(401, 403, 404))
def get_model(model_id: str, service: Services, _caller: Callers) -> Model:
    """Get a model."""
    for card in service.fleet.models():
        if card.name == model_id:
            return _model(card)
    raise ApiError(404, f"Model {model_id[:60]!r} not found.", code="model_not_found", param="model_id")


@router.get("/livez", response_model=Health, tags=["health"], responses=answers(403))
async def livez() -> Health:
    """Report that this process is alive."""
    return Health(status="ok")


@router.get(
    "/readyz",
    response_model=Health,
    tags=["health"],
    responses={
        **answers(403),
        503: {"model": Health, "description": "No worker has loaded a model, or the disk is full."},
    },
)
def readyz(service: Services, response: Response) -> Health:
    """Report whether the store responds, a worker has loaded a model, and the disk has space."""
    states = [worker.state for worker in service.fleet.alive()]
    workers = {state: states.count(state) for state in ("loading", "ready", "busy")}
    free = service.storage.free_bytes()
    message = None
    if not workers["ready"] + workers["busy"]:
        message = "no worker has loaded a model; new jobs are queued"
    elif service.free_bytes() < 0:
        message = f"the disk is full: {free / 1e6:.0f} MB are free; new jobs are refused"
    if message is None:
        return Health(status="ok", workers=workers, disk_free_bytes=free)
    response.status_code = 503
    response.headers["Retry-After"] = "5"
    return Health(status="unavailable", workers=workers, disk_free_bytes=free, message=message)


@router.get(
    "/metrics",
    tags=["health"],
    response_class=Response,
    responses={
        200: {"description": "Prometheus text.", "content": {"text/plain": {"schema": {"type": "string"}}}},
        **answers(401, 403),
    },
)
def metrics(service: Services, _caller: Callers) -> Response:
    """Metrics of requests, jobs and workers in Prometheus format."""
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _model(card: ModelCard) -> Model:
    defaults = card.settings
    return Model(
        id=card.name,
        num_frames=defaults.num_frames,
        size=f"{defaults.width}x{defaults.height}",
        fps=defaults.fps,
        num_inference_steps=defaults.num_inference_steps,
        guidance_scale=defaults.guidance_scale,
        about=card.about,
        loras=list(card.loras),
    )
