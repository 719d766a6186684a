"""The truth is true: rays, depth, cameras and light of toy worlds against independent reckonings."""

import numpy as np
import pytest

from fw_toy.clips import ToyPlan, design, exposure_of, render
from fw_toy.rendering.bake import bake
from fw_toy.rendering.lights import Lighting, Sky
from fw_toy.rendering.render import Renderer
from fw_toy.rendering.tracer import EmbreeTracer, NumpyTracer
from fw_toy.shapes.mesh import Builder, Material
from fw_toy.shapes.solids import box, cylinder, lathe, lump, sheet, sphere
from fw_toy.worlds.paths import look_at
from fw_toy.worlds.scene import Blueprint, assemble

PLASTER = Material(texture="plaster")


def plan(scenes, frames=9, index=1, takes=1):
    return ToyPlan(
        seed=5, index=index, takes=takes, scenes=scenes, frames=frames, height=48, width=64, fps=8.0, supersample=1
    )


@pytest.fixture(scope="module", params=["indoor", "outdoor"])
def clip(request):
    return design([plan(request.param)])[0]


@pytest.fixture(scope="module")
def images(clip):
    return render(clip)


def small_scene(parts):
    builder = Builder()
    builder.add("a thing", parts)
    corner = np.zeros(3)
    blueprint = Blueprint(
        kind="outdoor", builder=builder, lighting=Lighting(), setting="a place", focus=corner, low=corner, high=corner
    )
    return assemble(blueprint, rows=32)


def test_embree_agrees_with_the_plain_tracer():
    rng = np.random.default_rng(0)
    triangles = np.concatenate([rng.uniform(-2, 2, (1, 3)) + rng.normal(0, 0.5, (40, 3, 3)) for _ in range(3)])
    origin, direction = rng.uniform(-3, 3, (300, 3)), rng.normal(size=(300, 3))
    fast, plain = EmbreeTracer(triangles), NumpyTracer(triangles)
    hit = plain.first_hit(origin, direction)
    assert 0.1 < (hit >= 0).mean() < 0.95
    assert (fast.first_hit(origin, direction) == hit).mean() > 0.99
    assert (fast.occluded(origin, direction, 0.7) == plain.occluded(origin, direction, 0.7)).mean() > 0.99


def test_depth_of_a_tilted_plane_is_the_formula():
    scene = small_scene([(sheet((-50, 4, -50), (100, 3, 0), (0, 0, 100), 200.0), PLASTER)])
    K = np.array([[40.0, 0, 24.5], [0, 42.0, 15.0], [0, 0, 1]])
    pose = look_at(np.array([0.3, -1.0, 0.4]), np.array([0.5, 5.0, 0.1]), 0.1)
    depth = Renderer(scene).depth(K, pose, 32, 48)
    x, y = np.meshgrid((np.arange(48) + 0.5 - 24.5) / 40.0, (np.arange(32) + 0.5 - 15.0) / 42.0)
    ray = np.stack([x, y, np.ones_like(x)], -1) @ pose[:3, :3].T
    normal = np.array([3.0, -100.0, 0.0])
    expected = (np.array([-50.0, 4, -50]) - pose[:3, 3]) @ normal / (ray @ normal)
    np.testing.assert_allclose(depth, expected, rtol=1e-6)


def test_depth_agrees_with_brute_force_rays(clip, images):
    mesh, pose, K = clip.scene.mesh, clip.path.pose_c2w[1], clip.path.K
    rng = np.random.default_rng(1)
    rows, columns = rng.integers(0, 48, 12), rng.integers(0, 64, 12)
    ray = np.stack([(columns + 0.5 - K[0, 2]) / K[0, 0], (rows + 0.5 - K[1, 2]) / K[1, 1], np.ones(12)], -1)
    distance = NumpyTracer(mesh.triangles)._distances(np.tile(pose[:3, 3], (12, 1)), ray @ pose[:3, :3].T).min(1)
    expected = np.where(np.isfinite(distance), distance, 0.0)
    np.testing.assert_allclose(images[1][1][rows, columns], expected, rtol=1e-5)


def test_frames_reproject_onto_each_other(clip, images):
    video, depth = images
    K, pose = clip.path.K, clip.path.pose_c2w
    x, y = np.meshgrid((np.arange(64) + 0.5 - K[0, 2]) / K[0, 0], (np.arange(48) + 0.5 - K[1, 2]) / K[1, 1])
    points = (np.stack([x, y, np.ones_like(x)], -1) * depth[0][..., None])[depth[0] > 0]
    local = (points @ pose[0, :3, :3].T + pose[0, :3, 3] - pose[2, :3, 3]) @ pose[2, :3, :3]
    u, v = (np.floor(K[k, k] * local[:, k] / local[:, 2] + K[k, 2]).astype(int) for k in (0, 1))
    inside = (u >= 1) & (u < 63) & (v >= 1) & (v < 47) & (local[:, 2] > 0)
    assert inside.mean() > 0.35
    u, v, z = u[inside], v[inside], local[inside, 2]
    around = np.stack([depth[2][v + a, u + b] for a in (-1, 0, 1) for b in (-1, 0, 1)])
    between = (z > around.min(0) * 0.98) & (z < around.max(0) * 1.02)
    assert between.mean() > 0.8
    color, there = video[0][depth[0] > 0][inside].astype(float), video[2][v, u].astype(float)
    shuffled = np.random.default_rng(2).permutation(there)
    assert np.abs(color - there)[between].mean() < 0.6 * np.abs(color - shuffled).mean()


def test_cameras_move_smoothly_and_keep_clear(clip):
    fine = clip.path
    assert fine.pose_c2w.shape == (9, 4, 4)
    R, eyes = fine.pose_c2w[:, :3, :3], fine.pose_c2w[:, :3, 3]
    np.testing.assert_allclose(np.einsum("fij,fik->fjk", R, R), np.tile(np.eye(3), (9, 1, 1)), atol=1e-9)
    np.testing.assert_allclose(np.linalg.det(R), 1.0)
    step = np.linalg.norm(np.diff(eyes, axis=0), axis=1)
    bend = np.linalg.norm(np.diff(eyes, n=2, axis=0), axis=1)
    assert step.max() < 2.5 * step.mean()
    assert bend.max() < 0.5 * step.mean()
    assert 0.1 <= step.sum() / fine.median_depth_m <= 0.7
    assert np.linalg.norm(clip.scene.mesh.vertices[None] - eyes[:, None], axis=-1).min() > 0.2
    fov = np.degrees(2 * np.arctan(32 / fine.K[0, 0]))
    assert 45 <= fov <= 80


def test_same_plan_same_truth_and_caption(clip, images):
    again = design([plan(clip.scene.blueprint.kind)])[0]
    assert again.caption == clip.caption
    np.testing.assert_array_equal(again.path.pose_c2w, clip.path.pose_c2w)
    renderer = Renderer(again.scene, 1, exposure_of(again))
    frame, depth = next(renderer.frames(again.path.K, again.path.pose_c2w[4:5], 48, 64))
    np.testing.assert_array_equal(depth, images[1][4])
    np.testing.assert_array_equal(frame, images[0][4])


def test_takes_of_a_world_differ_in_their_cameras_alone():
    first, second, third = design([plan("indoor", index=i, takes=3) for i in (3, 4, 5)])
    assert first.scene is second.scene is third.scene
    assert not np.allclose(first.path.pose_c2w, second.path.pose_c2w)
    assert not np.allclose(second.path.pose_c2w, third.path.pose_c2w)
    alone = design([plan("indoor", index=4, takes=3)])[0]
    np.testing.assert_array_equal(alone.path.pose_c2w, second.path.pose_c2w)
    np.testing.assert_array_equal(first.path.pose_c2w, design([plan("indoor")])[0].path.pose_c2w)


def test_look_at_has_opencv_axes():
    eye, target = np.array([1.0, 2.0, 3.0]), np.array([4.0, -1.0, 2.0])
    pose = look_at(eye, target)
    local = pose[:3, :3].T @ (target - eye)
    np.testing.assert_allclose(local, np.array([0, 0, np.linalg.norm(target - eye)]), atol=1e-12)
    assert pose[2, 1] < 0  # y points down, against world z
    assert abs(pose[2, 0]) < 1e-12  # level


def test_light_in_a_glowing_closed_box_adds_up():
    walls = box((4, 4, 4), cell_m=1.0)
    inward = type(walls)(vertices=walls.vertices, normals=-walls.normals, uv=walls.uv, faces=walls.faces)
    builder = Builder()
    builder.add("", [(inward, Material(texture="plaster", emission=(1.0, 0.5, 0.25)))])
    mesh = builder.build()
    albedo = np.array([[0.5, 0.5, 0.5]], np.float32)
    light = bake(mesh, EmbreeTracer(mesh.triangles), Lighting(), albedo, rays=64)
    expected = np.pi * np.array([1.0, 0.5, 0.25]) * (1 + 0.5 + 0.25)
    np.testing.assert_allclose(light, np.tile(expected, (len(light), 1)), rtol=0.02)


def test_open_ground_receives_pi_times_a_uniform_sky():
    builder = Builder()
    builder.add("", [(sheet((-1, -1, 0), (2, 0, 0), (0, 2, 0)), PLASTER)])
    mesh, gray = builder.build(), (0.7, 0.7, 0.7)
    sky = Sky(zenith=gray, horizon=gray, cover=0.0)
    light = bake(mesh, EmbreeTracer(mesh.triangles), Lighting(sky=sky), np.full((1, 3), 0.5, np.float32), rays=64)
    np.testing.assert_allclose(light, np.pi * 0.7, rtol=1e-4)


@pytest.mark.parametrize(
    "patch",
    [
        box((1, 2, 3), cell_m=9.0),
        box((1, 2, 3), cell_m=0.4),
        sphere(0.7),
        cylinder(0.4, 1.1),
        lump(np.random.default_rng(0), (1, 1, 1)),
        lathe([(0.001, 0), (0.5, 0.2), (0.2, 1.0), (0.001, 1.2)]),
    ],
    ids=["box", "fine box", "sphere", "cylinder", "lump", "lathe"],
)
def test_bodies_face_outward(patch):
    builder = Builder()
    builder.add("", [(patch, PLASTER)])
    mesh = builder.build()
    np.testing.assert_allclose(np.linalg.norm(mesh.normals, axis=1), 1.0, atol=1e-6)
    corner = mesh.triangles
    volume = (corner[:, 0] * np.cross(corner[:, 1], corner[:, 2])).sum() / 6
    assert volume > 0
    hull = np.prod(np.ptp(patch.vertices, axis=0))
    assert 0.2 * hull < volume <= hull * (1 + 1e-9)
