"""Bundle adjustment of a sparse scene: every pose, every point and the one shared focal length, together.

The solver is Ceres through pycolmap. Axis legend: f frames, p points, o observations.
"""

from dataclasses import replace

import numpy as np
import pycolmap

from fw_data.annotators.sfm.rolling_shutter import observed_shift, residuals_px
from fw_data.annotators.sfm.scene import SparseScene


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
    options = _options(loss_px, max_iterations, threads)
    options.refine_focal_length = refine_focal
    options.refine_principal_point = refine_principal
    options.refine_extra_params = refine_radial
    _solve(model, options)
    return _read_back(scene, model)


def _options(loss_px: float, max_iterations: int, threads: int) -> pycolmap.BundleAdjustmentOptions:
    """Focal lengths, poses and points free, with a Cauchy loss."""
    options = pycolmap.BundleAdjustmentOptions()
    options.print_summary = False
    options.refine_principal_point = False
    options.refine_extra_params = False
    options.ceres.loss_function_type = pycolmap.LossFunctionType.CAUCHY
    options.ceres.loss_function_scale = loss_px
    options.ceres.solver_options.max_num_iterations = max_iterations
    options.ceres.solver_options.function_tolerance = 1e-6
    options.ceres.solver_options.num_threads = threads
    options.ceres.min_num_residuals_for_cpu_multi_threading = 5000
    return options


def _solve(model: pycolmap.Reconstruction, options: pycolmap.BundleAdjustmentOptions) -> None:
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


def focal_lengths(scene: SparseScene, *, loss_px: float, max_iterations: int = 30, threads: int = 2) -> np.ndarray:
    """Focal lengths (f) that the posed frames take when each has its own, all else adjusted too."""
    model = to_reconstruction(replace(scene, obs_xy=scene.obs_xy - observed_shift(scene)), shared=False)
    _solve(model, _options(loss_px, max_iterations, threads))
    return np.array([model.camera(int(frame) + 1).params[0] for frame in np.flatnonzero(scene.posed)])


def to_reconstruction(scene: SparseScene, *, shared: bool = True) -> pycolmap.Reconstruction:
    """The posed frames as a COLMAP model; image id = frame + 1, point ids in order of the points that are seen.

    Without `shared`, each image has a camera of its own, with the id of the image.
    """
    model = pycolmap.Reconstruction()
    for number in [1] if shared else (np.flatnonzero(scene.posed) + 1).tolist():
        camera = pycolmap.Camera.create_from_model_name(
            number, "SIMPLE_RADIAL", scene.focal_px, scene.width, scene.height
        )
        camera.params = [scene.focal_px, *scene.principal_px, scene.radial]
        model.add_camera_with_trivial_rig(camera)
    order = np.argsort(scene.obs_frame, kind="stable")
    bounds = np.searchsorted(scene.obs_frame[order], np.arange(len(scene.posed) + 1))
    slot = np.zeros(len(order), np.int64)
    for frame in np.flatnonzero(scene.posed):
        rows = order[bounds[frame] : bounds[frame + 1]]
        slot[rows] = np.arange(len(rows))
        number = int(frame) + 1
        image = pycolmap.Image(
            name=f"{frame:06d}",
            keypoints=scene.obs_xy[rows].reshape(-1, 2),
            camera_id=1 if shared else number,
            image_id=number,
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
    focal, x, y, radial = map(float, model.camera(1).params)
    offset = (x - scene.width / 2, y - scene.height / 2)
    return replace(scene, focal_px=focal, offset_px=offset, radial=radial, pose_w2c=pose, points=points)
