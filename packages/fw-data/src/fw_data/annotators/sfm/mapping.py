"""Poses of the key frames and a first set of scene points from verified matches, by COLMAP's mappers.

All key frames share one pinhole camera with a centered principal point. Poses inside are world-to-camera, as COLMAP
has them. Axis legend: k key frames.
"""

from dataclasses import dataclass

import numpy as np
import pycolmap

from fw_data.annotators.sfm.matching.features import Features
from fw_data.annotators.sfm.matching.matching import PairMatches
from fw_data.annotators.sfm.scene import SparseScene

MIN_FIRST_POINTS = 30
MIN_FIRST_FRACTION = 0.5
MAX_FIRST_PAIRS = 5
MIN_ANGLE_DEG = 0.5
"""Smallest parallax of a scene point while the model grows."""
MIN_PAIR_MATCHES = 15


@dataclass(frozen=True, kw_only=True)
class Verified:
    """The matches in COLMAP's own form, checked with one focal length; it must live as long as a mapper uses it."""

    camera: pycolmap.Camera
    cache: pycolmap.DatabaseCache
    first_pairs: list["_FirstPair"]
    """Pairs to start from, best first."""


def map_keyframes(
    features: list[Features], pairs: list[PairMatches], *, focal_px: float, seed: int, threads: int, first: int = 0
) -> pycolmap.Reconstruction | None:
    """`grow` from new matches."""
    return grow(verify(features, pairs, focal_px=focal_px, seed=seed), seed=seed, threads=threads, first=first)


def grow(verified: Verified, *, seed: int, threads: int, first: int = 0) -> pycolmap.Reconstruction | None:
    """A reconstruction of as many key frames as possible (image id = index + 1); None when no pair can start one.

    Incremental mapping (Schoenberger & Frahm, CVPR 2016): from one pair with parallax, frame by frame, the frames that
    see most of the scene first, adjusting nearby frames each time and everything whenever it has grown by a fifth. The
    focal length stays as given. `first` pairs of the ranking are passed over at the start.
    """
    pycolmap.logging.minloglevel = int(pycolmap.logging.Level.ERROR)  # its loaders report every step
    mapper = pycolmap.IncrementalMapper(verified.cache)
    mapper.begin_reconstruction(pycolmap.Reconstruction())
    options = _mapper_options(seed, threads)
    triangulation = pycolmap.IncrementalTriangulatorOptions(random_seed=seed, min_angle=MIN_ANGLE_DEG)
    if not _start(mapper, verified.first_pairs[first:], options, triangulation, threads):
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
            local = _adjustment_options(threads, iterations=15)
            mapper.iterative_local_refinement(1, 0.001, options, local, triangulation, added)
        if (added is None and adjusted_at < count) or count >= 1.2 * adjusted_at or count < 6:
            refined = _adjustment_options(threads, iterations=25)
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


@dataclass(frozen=True, kw_only=True)
class _FirstPair:
    """Two images (ids) that a reconstruction may start from."""

    first: int
    second: int
    pose: pycolmap.Rigid3d
    """Second camera from first."""
    matches: int
    off_plane: float
    """Matches that no single homography explains. Only they tell a turn from a move: pairs that lie close together may
    have many matches, and yet a pose with a large false turn fits them, and shows more parallax than the true one."""


def _start(
    mapper: pycolmap.IncrementalMapper,
    first_pairs: list[_FirstPair],
    options: pycolmap.IncrementalMapperOptions,
    triangulation: pycolmap.IncrementalTriangulatorOptions,
    threads: int,
) -> bool:
    """Pose the best pair whose matches become points.

    COLMAP's own search refuses cameras that move straight ahead, and takes parallax at its word.
    """
    for pair in first_pairs[:MAX_FIRST_PAIRS]:
        mapper.register_initial_image_pair(options, pair.first, pair.second, pair.pose)
        for image in (pair.first, pair.second):
            mapper.triangulate_image(triangulation, image)
        mapper.adjust_global_bundle(options, _adjustment_options(threads, iterations=25))
        mapper.filter_points(options)
        if mapper.reconstruction.num_points3D() >= max(MIN_FIRST_POINTS, MIN_FIRST_FRACTION * pair.matches):
            return True
        mapper.end_reconstruction(discard=True)
        mapper.begin_reconstruction(pycolmap.Reconstruction())
    return False


def _mapper_options(seed: int, threads: int) -> pycolmap.IncrementalMapperOptions:
    options = pycolmap.IncrementalMapperOptions()
    options.filter_min_tri_angle = MIN_ANGLE_DEG
    options.abs_pose_min_num_inliers = 15
    options.abs_pose_refine_focal_length = False
    options.min_focal_length_ratio = 0.3
    options.max_focal_length_ratio = 5.0
    options.num_threads = threads
    options.random_seed = seed
    return options


def _adjustment_options(threads: int, *, iterations: int) -> pycolmap.BundleAdjustmentOptions:
    options = pycolmap.BundleAdjustmentOptions()
    options.print_summary = False
    options.refine_focal_length = False
    options.refine_extra_params = False
    options.ceres.loss_function_type = pycolmap.LossFunctionType.SOFT_L1
    options.ceres.solver_options.max_num_iterations = iterations
    options.ceres.solver_options.function_tolerance = 1e-5
    options.ceres.solver_options.num_threads = threads
    return options


def verify(features: list[Features], pairs: list[PairMatches], *, focal_px: float, seed: int) -> Verified:
    """The matches that fit a motion of cameras with this focal length; misfits are left out."""
    width, height = features[0].size
    camera = pycolmap.Camera.create_from_model_name(1, "SIMPLE_PINHOLE", focal_px, width, height)
    camera.has_prior_focal_length = True
    first_pairs = []
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
        count = len(geometry.inlier_matches)
        if count < MIN_PAIR_MATCHES:
            continue
        cache.correspondence_graph.add_two_view_geometry(pair.first + 1, pair.second + 1, geometry)
        posed = pycolmap.estimate_two_view_geometry_pose(camera, first, camera, second, geometry)
        if posed and geometry.cam2_from_cam1 is not None:
            first_pairs.append(
                _FirstPair(
                    first=pair.first + 1,
                    second=pair.second + 1,
                    pose=geometry.cam2_from_cam1,
                    matches=count,
                    off_plane=count * (1 - pair.homography_fraction),
                )
            )
    cache.correspondence_graph.finalize()
    return Verified(camera=camera, cache=cache, first_pairs=sorted(first_pairs, key=lambda pair: -pair.off_plane))


def _positions(features: Features) -> np.ndarray:
    return features.positions.numpy().astype(np.float64).reshape(-1, 2)
