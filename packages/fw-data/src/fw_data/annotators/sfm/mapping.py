"""Poses of the key frames and a first set of scene points from verified matches, by COLMAP's mappers.

All key frames share one pinhole camera with a centred principal point. Poses inside are world-to-camera, as COLMAP
has them. Axis legend: k key frames.
"""

import numpy as np
import pycolmap

from fw_data.annotators.sfm.features import Features
from fw_data.annotators.sfm.matching import PairMatches
from fw_data.annotators.sfm.scene import SparseScene

MIN_FIRST_POINTS = 30
MIN_PAIR_MATCHES = 15


def map_keyframes(
    features: list[Features], pairs: list[PairMatches], *, focal_px: float, seed: int, threads: int
) -> pycolmap.Reconstruction | None:
    """A reconstruction of as many key frames as possible (image id = index + 1); None when no pair can start one.

    Incremental mapping (Schoenberger & Frahm, CVPR 2016): from one pair with parallax, frame by frame, the frames that
    see most of the scene first, adjusting nearby frames each time and everything whenever it has grown by a fifth.
    """
    pycolmap.logging.minloglevel = int(pycolmap.logging.Level.ERROR)  # its loaders report every step
    width, height = features[0].size
    camera = pycolmap.Camera.create_from_model_name(1, "SIMPLE_PINHOLE", focal_px, width, height)
    matches = _matches(camera, features, pairs, seed)  # must live as long as the mapper
    mapper = pycolmap.IncrementalMapper(matches)
    mapper.begin_reconstruction(pycolmap.Reconstruction())
    options = _mapper_options(seed, threads)
    triangulation = pycolmap.IncrementalTriangulatorOptions(random_seed=seed)
    if not _start(mapper, options, triangulation, threads):
        mapper.end_reconstruction(discard=True)
        return None
    adjusted_at = 2
    while True:
        added = next(
            (i for i in mapper.find_next_images(options, False) if mapper.register_next_image(options, i)), None
        )
        count = mapper.reconstruction.num_reg_images()
        if added is not None:
            mapper.triangulate_image(triangulation, added)
            local = _adjustment_options(threads, refine_focal=False, iterations=15)
            mapper.iterative_local_refinement(1, 0.001, options, local, triangulation, added)
        if (added is None and adjusted_at < count) or count >= 1.2 * adjusted_at or count < 6:
            refined = _adjustment_options(threads, refine_focal=count >= 4, iterations=25)
            mapper.iterative_global_refinement(2, 0.001, options, refined, triangulation)
            adjusted_at = count
        elif added is None:
            break
        if added is None and count < 6:
            break
    model = mapper.reconstruction
    mapper.end_reconstruction(discard=False)
    return model


def scene_from_model(model: pycolmap.Reconstruction, keyframes: list[int], frames: int) -> SparseScene:
    """A COLMAP model of the key frames as a scene of the whole clip (image id = position in `keyframes` + 1)."""
    camera = next(iter(model.cameras.values()))
    pose = np.tile(np.eye(4), (frames, 1, 1))
    posed = np.zeros(frames, bool)
    for image_id in model.reg_image_ids():
        frame = keyframes[image_id - 1]
        pose[frame, :3] = model.image(image_id).cam_from_world().matrix()
        posed[frame] = True
    points, obs_frame, obs_point, obs_xy = [], [], [], []
    for point_id in sorted(model.points3D):
        point = model.points3D[point_id]
        for element in point.track.elements:
            obs_frame.append(keyframes[element.image_id - 1])
            obs_point.append(len(points))
            obs_xy.append(model.image(element.image_id).points2D[element.point2D_idx].xy)
        points.append(point.xyz)
    return SparseScene(
        width=camera.width,
        height=camera.height,
        focal_px=float(camera.params[0]),
        pose_w2c=pose,
        posed=posed,
        points=np.array(points, np.float64).reshape(-1, 3),
        obs_frame=np.array(obs_frame, np.int64),
        obs_point=np.array(obs_point, np.int64),
        obs_xy=np.array(obs_xy, np.float64).reshape(-1, 2),
    )


def _start(
    mapper: pycolmap.IncrementalMapper,
    options: pycolmap.IncrementalMapperOptions,
    triangulation: pycolmap.IncrementalTriangulatorOptions,
    threads: int,
) -> bool:
    """Pose the best first pair, asking for less parallax when no pair has much."""
    for angle in (10.0, 4.0, 1.5):
        options.init_min_tri_angle = angle
        mapper.reset_initialization_stats()
        seed = mapper.find_initial_image_pair(options, -1, -1)
        if seed is None:
            continue
        (first, second), pose = seed
        mapper.register_initial_image_pair(options, first, second, pose)
        for image in (first, second):
            mapper.triangulate_image(triangulation, image)
        mapper.adjust_global_bundle(options, _adjustment_options(threads, refine_focal=False, iterations=25))
        mapper.filter_points(options)
        if mapper.reconstruction.num_points3D() >= MIN_FIRST_POINTS:
            return True
        mapper.end_reconstruction(discard=True)
        mapper.begin_reconstruction(pycolmap.Reconstruction())
    return False


def _mapper_options(seed: int, threads: int) -> pycolmap.IncrementalMapperOptions:
    options = pycolmap.IncrementalMapperOptions()
    options.init_min_num_inliers = 40
    options.abs_pose_min_num_inliers = 15
    options.abs_pose_refine_focal_length = False
    options.min_focal_length_ratio = 0.3
    options.max_focal_length_ratio = 5.0
    options.num_threads = threads
    options.random_seed = seed
    return options


def _adjustment_options(threads: int, *, refine_focal: bool, iterations: int) -> pycolmap.BundleAdjustmentOptions:
    options = pycolmap.BundleAdjustmentOptions()
    options.print_summary = False
    options.refine_focal_length = refine_focal
    options.refine_extra_params = False
    options.ceres.loss_function_type = pycolmap.LossFunctionType.SOFT_L1
    options.ceres.solver_options.max_num_iterations = iterations
    options.ceres.solver_options.function_tolerance = 1e-5
    options.ceres.solver_options.num_threads = threads
    return options


def _matches(
    camera: pycolmap.Camera, features: list[Features], pairs: list[PairMatches], seed: int
) -> pycolmap.DatabaseCache:
    """The matches in COLMAP's own form, in memory; pairs that fit no two-view geometry are left out."""
    cache = pycolmap.DatabaseCache()
    cache.add_camera(camera)
    sensor = pycolmap.sensor_t(type=pycolmap.SensorType.CAMERA, id=camera.camera_id)
    rig = pycolmap.Rig(rig_id=1)
    rig.add_ref_sensor(sensor)
    cache.add_rig(rig)
    for index, feature in enumerate(features):
        image_id = index + 1
        frame = pycolmap.Frame(frame_id=image_id, rig_id=1)
        frame.add_data_id(pycolmap.data_t(sensor_id=sensor, id=image_id))
        cache.add_frame(frame)
        image = pycolmap.Image(
            name=f"{index:06d}", keypoints=_positions(feature), camera_id=camera.camera_id, image_id=image_id
        )
        image.frame_id = image_id
        cache.add_image(image)
    options = pycolmap.TwoViewGeometryOptions()
    options.ransac.random_seed = seed
    options.ransac.max_error = 2.0
    for pair in pairs:
        first, second = _positions(features[pair.first]), _positions(features[pair.second])
        geometry = pycolmap.estimate_two_view_geometry(
            camera, first, camera, second, pair.indices.astype(np.uint32), options
        )
        if len(geometry.inlier_matches) >= MIN_PAIR_MATCHES:
            cache.correspondence_graph.add_two_view_geometry(pair.first + 1, pair.second + 1, geometry)
    cache.correspondence_graph.finalize()
    return cache


def _positions(features: Features) -> np.ndarray:
    return features.positions.numpy().astype(np.float64).reshape(-1, 2)
