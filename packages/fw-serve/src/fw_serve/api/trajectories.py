"""/v1/trajectories: camera presets, validation and preview of camera paths."""

from typing import Annotated

import numpy as np
from fastapi import APIRouter, Depends

from fw_geometry.camera import Trajectory
from fw_geometry.clip_shape import parse_size
from fw_geometry.rigid import rotation_angles
from fw_model.pipeline.settings import Sampling
from fw_serve.api.bodies import body_schema, json_body
from fw_serve.api.errors import ApiError, answers
from fw_serve.api.schemas import (
    PresetInfo,
    PresetList,
    TrajectoryPreview,
    TrajectoryReport,
    TrajectoryRequest,
)
from fw_serve.api.service import Callers, Service, Services
from fw_serve.intake.camera import BadCameraError, StoredPath, presets, read_camera

router = APIRouter(prefix="/v1/trajectories", tags=["trajectories"])

_Body = Annotated[TrajectoryRequest, Depends(json_body(TrajectoryRequest))]


@router.get("", response_model=PresetList, responses=answers(401, 403))
def list_presets(_caller: Callers) -> PresetList:
    """List the camera presets."""
    return PresetList(data=[PresetInfo(**preset) for preset in presets()])


@router.post("/validate", response_model=TrajectoryReport, openapi_extra=body_schema(TrajectoryRequest),
             responses=answers(400, 401, 403, 413))  # fmt: skip
def validate_trajectory(body: _Body, service: Services, _caller: Callers) -> TrajectoryReport:
    """Check whether a camera path is valid."""
    try:
        path = _read(service, body)
    except BadCameraError as error:
        return TrajectoryReport(valid=False, message=str(error))
    return TrajectoryReport(**_figures(path))


@router.post("/preview", response_model=TrajectoryPreview, openapi_extra=body_schema(TrajectoryRequest),
             responses=answers(400, 401, 403, 413))  # fmt: skip
def preview_trajectory(body: _Body, service: Services, _caller: Callers) -> TrajectoryPreview:
    """Return every camera of a path, relative to the first."""
    try:
        path = _read(service, body)
    except BadCameraError as error:
        raise ApiError(
            400, f"camera_trajectory: {error}", code="invalid_value", param="camera_trajectory"
        ) from None  # fmt: skip
    relative = path.trajectory().relative_to_first()
    return TrajectoryPreview(
        **_figures(path),
        width=path.width,
        height=path.height,
        K=path.K,
        pose_c2w=relative.pose_c2w.tolist(),
    )


def _read(service: Service, body: TrajectoryRequest) -> StoredPath:
    cards = service.fleet.models()
    defaults = cards[0].settings if cards else Sampling(num_frames=81, height=336, width=592)
    width, height = defaults.width, defaults.height
    if body.size is not None:
        width, height = parse_size(body.size, multiple=1, least=10, largest=99_999)
    return read_camera(
        body.camera_trajectory,
        num_frames=body.num_frames,
        default_num_frames=defaults.num_frames,
        width=width,
        height=height,
    )


def _figures(path: StoredPath) -> dict:
    trajectory: Trajectory = path.trajectory()
    rotations = trajectory.pose_c2w[:, :3, :3]
    turns = rotation_angles(np.swapaxes(rotations[:-1], -1, -2) @ rotations[1:]) if len(rotations) > 1 else np.zeros(1)
    return {
        "valid": True,
        "kind": path.kind,
        "num_frames": len(path.K),
        "path_length": float(trajectory.path_length()),
        "turn_deg": float(np.rad2deg(turns).sum()),
        "units": path.units,
    }
