"""Bundle adjustment of a sparse scene: every pose, every point and the one shared focal length, together.

The solver is Ceres through pycolmap. Axis legend: f frames, p points, o observations.
"""

from dataclasses import dataclass, replace

import numpy as np
import pycolmap
from jaxtyping import Float64

from fw_data.annotators.sfm.rolling_shutter import observed_shift, residuals_px
from fw_data.annotators.sfm.scene import SparseScene

DIRECT_FRAMES = 50
"""Most frames that are adjusted with a dense factorization."""


def adjust(
    scene: SparseScene,
    *,
    loss_px: float = 0.7,
    refine_focal: bool = True,
    refine_radial: bool = False,
    refine_principal: bool = False,
    max_iterations: int = 40,
    threads: int = 2,
) -> SparseScene:
    """The scene with the smallest robust (Cauchy) reprojection error near the given one.

    A rolling shutter is taken out of the observations first, with the camera motion of the given scene.
    """
    model = to_reconstruction(replace(scene, obs_xy=scene.obs_xy - observed_shift(scene)))
    options = pycolmap.BundleAdjustmentOptions()
    options.refine_focal_length = refine_focal
    options.refine_principal_point = refine_principal
    options.refine_extra_params = refine_radial
    _solve(model, options, loss_px, max_iterations, threads)
    return _read_back(scene, model)


@dataclass(frozen=True, kw_only=True)
class FocalFit:
    """A scene adjusted with a focal length of each frame's own."""

    focals_px: Float64[np.ndarray, " f"]
    """0 without a pose."""
    residuals_px: Float64[np.ndarray, " o"]
    """Distance of each observation from where its point should be seen; infinity behind the camera."""


def adjust_focals(scene: SparseScene, *, loss_px: float, max_iterations: int, threads: int) -> FocalFit:
    """Adjust poses, points and the focal length of every frame; the rest of the camera stays as it is."""
    model = to_reconstruction(replace(scene, obs_xy=scene.obs_xy - observed_shift(scene)), own_cameras=True)
    options = pycolmap.BundleAdjustmentOptions()
    options.refine_principal_point = False
    options.refine_extra_params = False
    _solve(model, options, loss_px, max_iterations, threads)
    focals = np.zeros(len(scene.posed))
    for frame in np.flatnonzero(scene.posed):
        focals[frame] = model.camera(int(frame) + 1).params[0]
    moved = _read_back(scene, model)
    ratio = focals[scene.obs_frame] / scene.focal_px
    xy, depth = moved.project(scene.obs_frame, moved.points[scene.obs_point])
    xy = scene.center_px + (xy - scene.center_px) * ratio[:, None]
    residual = np.linalg.norm(scene.obs_xy - observed_shift(scene) - xy, axis=1)
    return FocalFit(focals_px=focals, residuals_px=np.where(depth > 0, residual, np.inf))


def _solve(
    model: pycolmap.Reconstruction,
    options: pycolmap.BundleAdjustmentOptions,
    loss_px: float,
    max_iterations: int,
    threads: int,
) -> None:
    options.print_summary = False
    options.ceres.loss_function_type = pycolmap.LossFunctionType.CAUCHY
    options.ceres.loss_function_scale = loss_px
    options.ceres.solver_options.max_num_iterations = max_iterations
    options.ceres.solver_options.function_tolerance = 1e-6
    options.ceres.solver_options.num_threads = threads
    options.ceres.min_num_residuals_for_cpu_multi_threading = 5000
    # In a video most frames see common points: their system is dense, and above some size steps are found faster one
    # by one (conjugate gradients on the Schur complement) than by sparse factors.
    options.ceres.max_num_images_direct_dense_cpu_solver = DIRECT_FRAMES
    options.ceres.max_num_images_direct_sparse_cpu_solver = DIRECT_FRAMES + 1
    config = pycolmap.BundleAdjustmentConfig()
    for image_id in model.reg_image_ids():
        config.add_image(image_id)
    config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    pycolmap.create_default_bundle_adjuster(options, config, model).solve()


def drop_outliers(
    scene: SparseScene, *, max_error_px: float, min_views: int = 3, min_angle_deg: float = 0.0
) -> SparseScene:
    """Without the observations that do not fit, and without points left with too few views or too small an angle."""
    keep = residuals_px(scene) < max_error_px
    scene = replace(scene, obs_frame=scene.obs_frame[keep], obs_point=scene.obs_point[keep], obs_xy=scene.obs_xy[keep])
    views = np.bincount(scene.obs_point, minlength=len(scene.points))
    good = views >= min_views
    if min_angle_deg > 0:
        good &= scene.triangulation_angle_deg() >= min_angle_deg
    return select_points(scene, good)


def select_points(scene: SparseScene, good: np.ndarray) -> SparseScene:
    """The scene with only the marked points and their observations."""
    index = np.cumsum(good) - 1
    keep = good[scene.obs_point]
    return replace(
        scene,
        points=scene.points[good],
        obs_frame=scene.obs_frame[keep],
        obs_point=index[scene.obs_point[keep]],
        obs_xy=scene.obs_xy[keep],
    )


def to_reconstruction(scene: SparseScene, *, own_cameras: bool = False) -> pycolmap.Reconstruction:
    """The posed frames as a COLMAP model; image id = frame + 1, point ids in order of the points that are seen.

    All frames share camera 1, or each has its own with the id of the image.
    """
    model = pycolmap.Reconstruction()
    size = (scene.width, scene.height)
    for camera_id in (np.flatnonzero(scene.posed) + 1).tolist() if own_cameras else [1]:
        camera = pycolmap.Camera.create_from_model_name(camera_id, "SIMPLE_RADIAL", scene.focal_px, *size)
        camera.params = [scene.focal_px, *scene.center_px, scene.radial]
        model.add_camera_with_trivial_rig(camera)
    order = np.argsort(scene.obs_frame, kind="stable")
    bounds = np.searchsorted(scene.obs_frame[order], np.arange(len(scene.posed) + 1))
    slot = np.zeros(len(order), np.int64)
    for frame in np.flatnonzero(scene.posed):
        rows = order[bounds[frame] : bounds[frame + 1]]
        slot[rows] = np.arange(len(rows))
        image = pycolmap.Image(
            name=f"{frame:06d}",
            keypoints=scene.obs_xy[rows].reshape(-1, 2),
            camera_id=int(frame) + 1 if own_cameras else 1,
            image_id=int(frame) + 1,
        )
        pose = pycolmap.Rigid3d(np.ascontiguousarray(scene.pose_w2c[frame, :3]))
        model.add_image_with_trivial_frame(image, pose)
    by_point = np.argsort(scene.obs_point, kind="stable")
    starts = np.searchsorted(scene.obs_point[by_point], np.arange(len(scene.points) + 1))
    frames = (scene.obs_frame + 1).tolist()
    slots = slot.tolist()
    for point, xyz in enumerate(scene.points):
        rows = by_point[starts[point] : starts[point + 1]].tolist()
        track = pycolmap.Track([pycolmap.TrackElement(frames[row], slots[row]) for row in rows])
        model.add_point3D_with_id(point + 1, pycolmap.Point3D(xyz=xyz, track=track))
    return model


def _read_back(scene: SparseScene, model: pycolmap.Reconstruction) -> SparseScene:
    pose = scene.pose_w2c.copy()
    for frame in np.flatnonzero(scene.posed):
        pose[frame, :3] = model.image(int(frame) + 1).cam_from_world().matrix()
    points = np.array([model.point3D(point + 1).xyz for point in range(len(scene.points))]).reshape(-1, 3)
    scene = replace(scene, pose_w2c=pose, points=points)
    if len(model.cameras) > 1:
        return scene
    focal, x, y, radial = model.camera(1).params.tolist()
    principal = (x - scene.width / 2, y - scene.height / 2)
    return replace(scene, focal_px=focal, principal_px=principal, radial=radial)
