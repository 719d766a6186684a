"""Poses of the key frames and a first set of scene points from verified matches, by COLMAP's mappers.

All key frames share one pinhole camera with a centred principal point. Poses inside are world-to-camera, as COLMAP
has them. Axis legend: k key frames.
"""

import tempfile
from pathlib import Path

import numpy as np
import pycolmap

from fw_data.annotators.sfm.features import Features
from fw_data.annotators.sfm.matching import PairMatches
from fw_data.annotators.sfm.scene import SparseScene


def map_keyframes(
    features: list[Features],
    pairs: list[PairMatches],
    *,
    focal_px: float,
    seed: int,
    threads: int,
    method: str = "incremental",
) -> pycolmap.Reconstruction | None:
    """The largest reconstruction of the key frames (image id = index + 1), or None when there is none."""
    width, height = features[0].size
    camera = pycolmap.Camera.create_from_model_name(1, "SIMPLE_PINHOLE", focal_px, width, height)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "matches.db"
        _write_database(path, camera, features, pairs, seed)
        if method == "incremental":
            models = pycolmap.incremental_mapping(path, folder, folder, _incremental_options(seed, threads))
        else:
            options = pycolmap.GlobalPipelineOptions(num_threads=threads, random_seed=seed)
            models = pycolmap.global_mapping(path, folder, folder, options)
    if not models:
        return None
    return max(models.values(), key=lambda model: (model.num_reg_images(), model.num_points3D()))


def _incremental_options(seed: int, threads: int) -> pycolmap.IncrementalPipelineOptions:
    options = pycolmap.IncrementalPipelineOptions()
    options.num_threads = threads
    options.random_seed = seed
    options.extract_colors = False
    options.min_model_size = 2
    options.multiple_models = False
    options.init_num_trials = 50
    options.min_focal_length_ratio = 0.3
    options.max_focal_length_ratio = 5.0
    options.ba_global_max_refinements = 2
    options.mapper.init_min_tri_angle = 4.0
    options.mapper.init_min_num_inliers = 40
    options.mapper.abs_pose_min_num_inliers = 15
    options.mapper.abs_pose_refine_focal_length = False
    options.mapper.num_threads = threads
    options.mapper.random_seed = seed
    options.triangulation.random_seed = seed
    return options


def _write_database(
    path: Path, camera: pycolmap.Camera, features: list[Features], pairs: list[PairMatches], seed: int
) -> None:
    two_view = pycolmap.TwoViewGeometryOptions()
    two_view.ransac.random_seed = seed
    two_view.ransac.max_error = 2.0
    with pycolmap.Database.open(path) as database:
        camera_id = database.write_camera(camera)
        sensor = pycolmap.sensor_t(type=pycolmap.SensorType.CAMERA, id=camera_id)
        rig = pycolmap.Rig(rig_id=1)
        rig.add_ref_sensor(sensor)
        rig_id = database.write_rig(rig)
        for index, feature in enumerate(features):
            image = pycolmap.Image(name=f"{index:06d}", camera_id=camera_id, image_id=index + 1)
            image_id = database.write_image(image, use_image_id=True)
            frame = pycolmap.Frame(frame_id=image_id, rig_id=rig_id)
            frame.add_data_id(pycolmap.data_t(sensor_id=sensor, id=image_id))
            database.write_frame(frame, use_frame_id=True)
            database.write_keypoints(image_id, feature.positions.numpy().astype(np.float32))
        for pair in pairs:
            first, second = features[pair.first], features[pair.second]
            matches = pair.indices.astype(np.uint32)
            geometry = pycolmap.estimate_two_view_geometry(
                camera,
                first.positions.numpy().astype(np.float64),
                camera,
                second.positions.numpy().astype(np.float64),
                matches,
                two_view,
            )
            database.write_matches(pair.first + 1, pair.second + 1, matches)
            database.write_two_view_geometry(pair.first + 1, pair.second + 1, geometry)


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
