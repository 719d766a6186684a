"""Cameras, poses, rays, alignment, metrics and camera files: the one home of every geometric convention.

Axis legend: OpenCV axes (x right, y down, z forward), poses camera-to-world, pixel centres at +0.5. Names load on first
use, so importing the numpy parts costs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fw_geometry.align import (
        ScaleShift,
        Sim3,
        Weights,
        fit_scale,
        fit_scale_shift_disparity,
        umeyama,
    )
    from fw_geometry.camera import (
        ORTHONORMAL_TOLERANCE,
        Camera,
        Trajectory,
        Units,
        fov_from_intrinsics,
        intrinsics_from_fov,
    )
    from fw_geometry.metrics import (
        Alignment,
        AteResult,
        CameraError,
        ConsistencyResult,
        RpeResult,
        abs_rel,
        ate,
        camera_error,
        chamfer,
        delta_accuracy,
        point_distances,
        reprojection_consistency,
        rpe,
    )
    from fw_geometry.pose import (
        decode_pose,
        encode_pose,
        interpolate_poses,
        matrix_to_quaternion,
        orthonormalize,
        quaternion_to_matrix,
        rotation_angle,
        se3_exp,
        se3_inverse,
        se3_log,
    )
    from fw_geometry.rays import (
        pack_plucker,
        pixel_grid,
        plucker_rays,
        plucker_rays_double_scaled,
        project,
        unproject,
    )
    from fw_geometry.rigid import (
        compose_poses,
        interpolate_rigid,
        invert_poses,
        nearest_rotations,
        orthonormality_error,
        quaternions_from_rotations,
        rotation_angles,
        rotations_from_quaternions,
        rotations_from_vectors,
        slerp_quaternions,
    )
    from fw_geometry.trajectories import (
        DEFAULT_FOV_RAD,
        PRESETS,
        Easing,
        Preset,
        from_keyframes,
        look_at,
        make_trajectory,
    )

__all__ = [
    "DEFAULT_FOV_RAD",
    "ORTHONORMAL_TOLERANCE",
    "PRESETS",
    "Alignment",
    "AteResult",
    "Camera",
    "CameraError",
    "ConsistencyResult",
    "Easing",
    "Preset",
    "RpeResult",
    "ScaleShift",
    "Sim3",
    "Trajectory",
    "Units",
    "Weights",
    "abs_rel",
    "ate",
    "camera_error",
    "chamfer",
    "compose_poses",
    "decode_pose",
    "delta_accuracy",
    "encode_pose",
    "fit_scale",
    "fit_scale_shift_disparity",
    "fov_from_intrinsics",
    "from_keyframes",
    "interpolate_poses",
    "interpolate_rigid",
    "intrinsics_from_fov",
    "invert_poses",
    "look_at",
    "make_trajectory",
    "matrix_to_quaternion",
    "nearest_rotations",
    "orthonormality_error",
    "orthonormalize",
    "pack_plucker",
    "pixel_grid",
    "plucker_rays",
    "plucker_rays_double_scaled",
    "point_distances",
    "project",
    "quaternion_to_matrix",
    "quaternions_from_rotations",
    "reprojection_consistency",
    "rotation_angle",
    "rotation_angles",
    "rotations_from_quaternions",
    "rotations_from_vectors",
    "rpe",
    "se3_exp",
    "se3_inverse",
    "se3_log",
    "slerp_quaternions",
    "umeyama",
    "unproject",
]

_NAMES_OF = {
    "camera": [
        "Camera",
        "ORTHONORMAL_TOLERANCE",
        "Trajectory",
        "Units",
        "fov_from_intrinsics",
        "intrinsics_from_fov",
    ],
    "rigid": [
        "compose_poses",
        "interpolate_rigid",
        "invert_poses",
        "nearest_rotations",
        "orthonormality_error",
        "quaternions_from_rotations",
        "rotation_angles",
        "rotations_from_quaternions",
        "rotations_from_vectors",
        "slerp_quaternions",
    ],
    "pose": [
        "decode_pose",
        "encode_pose",
        "interpolate_poses",
        "matrix_to_quaternion",
        "orthonormalize",
        "quaternion_to_matrix",
        "rotation_angle",
        "se3_exp",
        "se3_inverse",
        "se3_log",
    ],
    "rays": [
        "pack_plucker",
        "pixel_grid",
        "plucker_rays",
        "plucker_rays_double_scaled",
        "project",
        "unproject",
    ],
    "trajectories": [
        "DEFAULT_FOV_RAD",
        "Easing",
        "PRESETS",
        "Preset",
        "from_keyframes",
        "look_at",
        "make_trajectory",
    ],
    "align": [
        "ScaleShift",
        "Sim3",
        "Weights",
        "fit_scale",
        "fit_scale_shift_disparity",
        "umeyama",
    ],
    "metrics": [
        "Alignment",
        "AteResult",
        "CameraError",
        "ConsistencyResult",
        "RpeResult",
        "abs_rel",
        "ate",
        "camera_error",
        "chamfer",
        "delta_accuracy",
        "point_distances",
        "reprojection_consistency",
        "rpe",
    ],
}
_HOME_OF = {name: home for home, names in _NAMES_OF.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'fw_geometry' has no attribute {name!r}")
    return getattr(import_module(f"fw_geometry.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
