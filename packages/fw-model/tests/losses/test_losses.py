"""Every loss in value and gradient against a float64 re-derivation written with plain loops."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fw_model.losses import losses

B, F, H, W = 2, 4, 12, 16


@pytest.fixture
def clip():
    rng = np.random.default_rng(3)
    mask = rng.random((B, F, H, W)) > 0.3
    data = {
        "depth": rng.uniform(0.5, 3, (B, F, H, W)),
        "target": rng.uniform(0.5, 3, (B, F, H, W)),
        "confidence": 1 + rng.exponential(1.0, (B, F, H, W)),
        "points": rng.normal(size=(B, F, H, W, 3)),
        "points_target": rng.normal(size=(B, F, H, W, 3)),
        "weight": rng.random((B, F, H, W)),
    }
    # a smooth part, so that the temporal gate lets some pixels through
    data["target"][:, 1:, :, :8] = data["target"][:, :1, :, :8] + 0.02 * rng.normal(size=(B, F - 1, H, 8))
    tensors = {key: torch.tensor(value) for key, value in data.items()}
    return SimpleNamespace(mask=torch.tensor(mask), **tensors)


def _numeric_gradient(function, x, probes=9):
    """Central differences of a float64 function at a few entries of x."""
    flat = np.linspace(0, x.numel() - 1, probes).astype(int)
    slopes = []
    for i in flat:
        up, down = x.clone().flatten(), x.clone().flatten()
        up[i] += 1e-6
        down[i] -= 1e-6
        slopes.append((function(up.view_as(x)) - function(down.view_as(x))) / 2e-6)
    return flat, torch.tensor([float(s) for s in slopes], dtype=torch.float64)


def _check(function, reference, *inputs):
    """The value, and the gradients by each input, of ``function`` against the loops of ``reference``."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    value = function(*leaves)
    assert value.dtype == torch.float64
    assert float(value.detach()) == pytest.approx(float(reference(*[x.numpy() for x in inputs])), rel=1e-10)
    for k, gradient in enumerate(torch.autograd.grad(value, leaves)):

        def one(x, k=k):
            return reference(*[(x if j == k else y).numpy() for j, y in enumerate(inputs)])

        index, numeric = _numeric_gradient(one, inputs[k])
        torch.testing.assert_close(gradient.flatten()[torch.tensor(index)], numeric, rtol=1e-5, atol=1e-7)


def test_flow_matching(clip):
    weight = torch.tensor([0.3, 1.7], dtype=torch.float64)

    def reference(v, u):
        return sum(float(weight[i]) * ((v[i] - u[i]) ** 2).mean() for i in range(B)) / B

    _check(lambda v, u: losses.flow_matching_loss(v, u, weight), reference, clip.points, clip.points_target)


def test_masked_l1(clip):
    def reference(d):
        total, count = 0.0, 0
        for index in np.ndindex(*d.shape):
            if clip.mask[index]:
                total += abs(d[index] - float(clip.target[index]))
                count += 1
        return total / count

    _check(lambda d: losses.masked_l1(d, clip.target, clip.mask), reference, clip.depth)


def test_temporal_gradient(clip):
    target, mask = clip.target.numpy(), clip.mask.numpy()

    def reference(d):
        errors = []
        for b in range(B):
            for t in range(F - 1):
                valid = target[b, t][mask[b, t]]
                limit = 0.05 * (valid.max() - valid.min())
                for y in range(H):
                    for x in range(W):
                        true = target[b, t + 1, y, x] - target[b, t, y, x]
                        if mask[b, t, y, x] and mask[b, t + 1, y, x] and abs(true) < limit:
                            errors.append(abs(d[b, t + 1, y, x] - d[b, t, y, x] - true))
        assert 50 < len(errors) < 400  # the gate does something
        return np.mean(errors)

    _check(lambda d: losses.temporal_gradient(d, clip.target, clip.mask), reference, clip.depth)


@pytest.mark.parametrize("weighted", [False, True])
def test_multiscale_gradient(clip, weighted):
    mask = clip.mask.numpy()

    def reference(p, w):
        total = 0.0
        for scale in range(3):
            step = 2**scale
            r = (p - clip.points_target.numpy())[:, :, ::step, ::step]
            m, u = mask[:, :, ::step, ::step], w[:, :, ::step, ::step]
            subtotal = 0.0
            for b, f, y, x in np.ndindex(*m.shape):
                for y2, x2 in ((y + 1, x), (y, x + 1)):
                    if y2 < m.shape[2] and x2 < m.shape[3] and m[b, f, y, x] and m[b, f, y2, x2]:
                        factor = (u[b, f, y, x] + u[b, f, y2, x2]) / 2 if weighted else 1.0
                        subtotal += factor * np.abs(r[b, f, y2, x2] - r[b, f, y, x]).sum()
            total += subtotal / m.sum()
        return total

    def ours(p, w):
        return (
            losses.multiscale_gradient(p, clip.points_target, clip.mask, scales=3, weight=w if weighted else None)
            + 0 * w.sum()
        )

    _check(ours, reference, clip.points, clip.weight)


def test_confidence_weighted(clip):
    residual = (clip.depth - clip.target).abs()
    mask = clip.mask.numpy()

    def reference(r, c):
        terms = np.sort((1.3 * c * r - 0.2 * np.log(c))[mask])
        return terms[: int(0.9 * len(terms))].mean()

    big = [x.repeat(1, 1, 2, 1) for x in (residual, clip.confidence)]
    mask = np.tile(mask, (1, 1, 2, 1))
    big[0] = big[0] + torch.linspace(0, 1e-3, big[0].numel(), dtype=torch.float64).view_as(big[0])  # no ties
    _check(
        lambda r, c: losses.confidence_weighted(r, c, torch.tensor(mask), gamma=1.3, alpha=0.2, trim=0.9),
        reference,
        *big,
    )


def test_confidence_is_best_where_the_error_says(clip):
    residual = torch.full((1, 1, 2, 2), 0.05, dtype=torch.float64)
    mask = torch.ones(1, 1, 2, 2, dtype=torch.bool)
    c = torch.linspace(1.0, 10.0, 901, dtype=torch.float64)
    values = [float(losses.confidence_weighted(residual, torch.full_like(residual, float(x)), mask)) for x in c]
    assert float(c[int(np.argmin(values))]) == pytest.approx(0.2 / 0.05)


def test_depth_loss_adds_its_terms_and_confidence_does_not_move_the_depth(clip):
    leaf = clip.depth.clone().requires_grad_()
    result = losses.depth_loss(leaf, clip.confidence, clip.target, clip.mask)
    p = result.parts
    expected = p["depth/frame"] + 0.5 * p["depth/gradient"] + 10 * p["depth/temporal"] + p["depth/confidence"]
    torch.testing.assert_close(result.total.detach(), expected)
    (with_confidence,) = torch.autograd.grad(result.total, leaf)
    silent = losses.depth_loss(
        leaf, clip.confidence, clip.target, clip.mask, None, losses.DepthLossConfig(confidence=0.0)
    )
    (without,) = torch.autograd.grad(silent.total, leaf)
    torch.testing.assert_close(with_confidence, without)


def test_pointmap_loss_is_the_sum_of_its_definition(clip):
    result = losses.pointmap_loss(clip.points, clip.confidence, clip.points_target, clip.mask)
    residual = (clip.points - clip.points_target).norm(dim=-1)
    first = losses.confidence_weighted(residual, clip.confidence, clip.mask)
    second = losses.multiscale_gradient(clip.points, clip.points_target, clip.mask, scales=3, weight=clip.confidence)
    torch.testing.assert_close(result.total, first + second / 3)


@pytest.mark.parametrize("kind", ["huber", "l1"])
def test_camera_loss(kind):
    rng = np.random.default_rng(5)
    predictions = [torch.tensor(rng.normal(scale=0.2, size=(B, F, 9))) for _ in range(4)]
    target = torch.tensor(rng.normal(scale=0.2, size=(B, F, 9)))
    keep = torch.tensor([[True, True, False, True], [True, False, True, True]])

    def reference(*encodings):
        total = 0.0
        for k, encoding in enumerate(encodings):
            subtotal, count = 0.0, 0
            for b in range(B):
                for f in range(F):
                    if not keep[b, f]:
                        continue
                    count += 1
                    errors = np.abs(encoding[b, f] - target[b, f].numpy())
                    if kind == "huber":
                        errors = [e * e / 0.2 if e < 0.1 else e - 0.05 for e in errors]
                    subtotal += np.mean(errors[:3]) + np.mean(errors[3:7]) + 0.5 * np.mean(errors[7:])
            total += 0.6 ** (3 - k) * subtotal / count
        return total

    config = losses.CameraLossConfig(kind=kind)
    _check(lambda *e: losses.camera_loss(list(e), target, keep, config).total, reference, *predictions)


def _prediction(clip, **changes) -> Any:
    values = {
        "depth": clip.depth,
        "depth_confidence": clip.confidence,
        "points": clip.points,
        "points_confidence": clip.confidence,
        "pose_encodings": [torch.full((B, F, 9), 0.1 * k, dtype=torch.float64) for k in range(4)],
    }
    return SimpleNamespace(**{**values, **changes})


def _targets(clip, mask):
    return losses.GeometryTargets(
        depth=clip.target,
        points=clip.points_target,
        pose_encoding=torch.zeros(B, F, 9, dtype=torch.float64),
        mask=mask,
        weight=clip.weight,
    )


def test_world_loss_weights(clip):
    velocity, target = clip.points, clip.points_target
    weight = torch.ones(B, dtype=torch.float64)
    result = losses.world_loss(
        velocity,
        target,
        weight,
        _prediction(clip),
        _targets(clip, clip.mask),
        losses.WorldLossConfig(geometry=0.25),
    )
    p = result.parts
    expected = p["flow"] + 0.25 * (p["depth"] + p["points"] + 3 * p["camera"])
    torch.testing.assert_close(result.total, expected)
    torch.testing.assert_close(p["geometry"], p["depth"] + p["points"] + 3 * p["camera"])
    alone = losses.world_loss(velocity, target, weight, None, None)
    torch.testing.assert_close(alone.total, p["flow"])


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_empty_masks_give_zero_and_finite_gradients(clip, broken):
    """Nothing valid, and the labels there are garbage: the loss is 0 and so is every gradient."""
    empty = torch.zeros_like(clip.mask)
    leaves = {
        key: getattr(clip, key if key in ("depth", "points") else "confidence").clone().requires_grad_()
        for key in ("depth", "depth_confidence", "points", "points_confidence")
    }
    poses = [torch.zeros(B, F, 9, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    clip.target = torch.full_like(clip.target, broken)
    clip.points_target = torch.full_like(clip.points_target, broken)
    targets = _targets(clip, empty)
    result = losses.geometry_loss(_prediction(clip, pose_encodings=poses, **leaves), targets)
    assert float(result.total.detach()) == 0
    for gradient in torch.autograd.grad(result.total, [*leaves.values(), *poses], allow_unused=True):
        assert gradient is None or float(gradient.abs().max()) == 0


def test_garbage_outside_the_mask_changes_nothing(clip):
    def run(target, points_target):
        clip.target, clip.points_target = target, points_target
        leaf = clip.depth.clone().requires_grad_()
        points = clip.points.clone().requires_grad_()
        result = losses.geometry_loss(_prediction(clip, depth=leaf, points=points), _targets(clip, clip.mask))
        return result.total, *torch.autograd.grad(result.total, [leaf, points])

    clean = run(clip.target, clip.points_target)
    dirty = run(clip.target.where(clip.mask, torch.nan), clip.points_target.where(clip.mask[..., None], torch.inf))
    for a, b in zip(clean, dirty, strict=True):
        torch.testing.assert_close(a, b)


def test_perfect_geometry_costs_only_the_confidence_reward(clip):
    perfect = _prediction(
        clip,
        depth=clip.target,
        points=clip.points_target,
        pose_encodings=[torch.zeros(B, F, 9, dtype=torch.float64)],
    )
    targets = losses.GeometryTargets(
        depth=clip.target,
        points=clip.points_target,
        pose_encoding=torch.zeros(B, F, 9, dtype=torch.float64),
        mask=clip.mask,
    )
    everything = losses.WorldLossConfig(depth=losses.DepthLossConfig(trim=1.0), points=losses.PointLossConfig(trim=1.0))
    result = losses.geometry_loss(perfect, targets, everything)
    rewards = [float(c.log()[m].mean()) for c, m in zip(clip.confidence, clip.mask, strict=True)]
    assert float(result.total) == pytest.approx(2 * -0.2 * sum(rewards) / B)


def test_every_sample_counts_the_same(clip):
    clip.mask[0, :, :, 3:] = False
    both = losses.geometry_loss(_prediction(clip), _targets(clip, clip.mask))
    whole, target = _prediction(clip), _targets(clip, clip.mask)
    alone = []
    for i in range(B):
        one = {k: v[i : i + 1] for k, v in vars(whole).items() if k != "pose_encodings"}
        poses = [encoding[i : i + 1] for encoding in whole.pose_encodings]
        cut = {k: v[i : i + 1] for k, v in vars(target).items()}
        geometry: Any = SimpleNamespace(**one, pose_encodings=poses)
        alone.append(losses.geometry_loss(geometry, losses.GeometryTargets(**cut)))
    torch.testing.assert_close(both.total, (alone[0].total + alone[1].total) / 2)


def test_gradients_at_zero_error_are_finite(clip):
    points = clip.points_target.clone().requires_grad_()
    result = losses.pointmap_loss(points, clip.confidence, clip.points_target, clip.mask)
    (gradient,) = torch.autograd.grad(result.total, points)
    assert gradient.isfinite().all()


def test_bfloat16_predictions_are_summed_in_float32(clip):
    half = losses.masked_l1(clip.depth.bfloat16(), clip.target.float(), clip.mask)
    assert half.dtype == torch.float32
    assert float(half) == pytest.approx(float(losses.masked_l1(clip.depth, clip.target, clip.mask)), rel=1e-2)


def test_frames_with_few_valid_pixels_do_not_teach_the_camera(clip):
    mask = torch.zeros_like(clip.mask)
    mask[:, 1:] = True  # frame 0 has nothing
    wild = torch.zeros(B, F, 9, dtype=torch.float64)
    wild[:, 0] = 1e3
    result = losses.geometry_loss(_prediction(clip, pose_encodings=[wild]), _targets(clip, mask))
    assert float(result.parts["camera"]) == 0


def test_a_single_frame_has_no_temporal_term(clip):
    value = losses.temporal_gradient(clip.depth[:, :1], clip.target[:, :1], clip.mask[:, :1])
    assert float(value) == 0
    with pytest.raises(ValueError, match="refinement"):
        losses.camera_loss([], torch.zeros(1, 1, 9), torch.ones(1, 1, dtype=torch.bool))


def test_log_depth_compares_shares(clip):
    config = losses.DepthLossConfig(space="log", gradient=0.0, temporal=0.0, confidence=0.0)
    mask, weight = clip.mask, clip.weight
    total = losses.depth_loss(clip.depth, clip.confidence, clip.target, mask, weight, config).total
    errors = [
        float(weight[i] * abs(math.log(clip.depth[i]) - math.log(clip.target[i])))
        for i in map(tuple, mask.nonzero().tolist())
    ]
    assert float(total) == pytest.approx(sum(errors) / len(errors), rel=1e-9)
    doubled = losses.depth_loss(2 * clip.depth, clip.confidence, 2 * clip.target, mask, weight, config).total
    assert float(doubled) == pytest.approx(float(total), rel=1e-9)


def test_plain_point_errors_do_not_depend_on_the_confidence(clip):
    config = losses.PointLossConfig(error="plain", gradient=0.5, confidence=0.1)

    def grads(confidence):
        points = clip.points.clone().requires_grad_()
        confidence = confidence.clone().requires_grad_()
        loss = losses.pointmap_loss(points, confidence, clip.points_target, clip.mask, clip.weight, config)
        loss.total.backward()
        return points.grad, confidence.grad, loss

    moved, learned, loss = grads(clip.confidence)
    other, _, _ = grads(3 * clip.confidence)
    torch.testing.assert_close(moved, other)
    assert learned.abs().sum() > 0
    distance = (clip.points - clip.points_target).norm(dim=-1) * clip.weight
    assert float(loss.parts["points/frame"]) == pytest.approx(float(distance[clip.mask].mean()), rel=1e-9)


def test_chosen_frames_are_compared_with_their_own_labels(clip):
    frames = [0, 2]
    geometry: Any = SimpleNamespace(
        depth=clip.depth[:, frames],
        depth_confidence=clip.confidence[:, frames],
        points=clip.points[:, frames],
        points_confidence=clip.confidence[:, frames],
        pose_encodings=[torch.zeros(B, F, 9, dtype=torch.float64)],
    )
    targets = losses.GeometryTargets(
        depth=clip.target,
        points=clip.points_target,
        pose_encoding=torch.ones(B, F, 9, dtype=torch.float64),
        mask=clip.mask,
        weight=clip.weight,
    )
    config = losses.WorldLossConfig(depth=losses.DepthLossConfig(temporal=0.0))
    parts = losses.geometry_loss(geometry, targets, config, dense_frames=frames).parts
    alone = [
        losses.masked_l1(geometry.depth[i], clip.target[i, frames], clip.mask[i, frames], clip.weight[i, frames])
        for i in (slice(0, 1), slice(1, 2))
    ]
    assert float(parts["depth/frame"]) == pytest.approx(float(sum(alone)) / B)
    assert float(parts["camera"]) > 0
    with pytest.raises(ValueError, match="temporal"):
        losses.geometry_loss(geometry, targets, losses.WorldLossConfig(), dense_frames=frames)
