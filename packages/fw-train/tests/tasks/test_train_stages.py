"""The three stages: what trains, what is executed, what each loss is made of."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fw_data.dataset.clip_order import Draw
from fw_data.dataset.reader import ClipDataset
from fw_model.config import WorldConfig
from fw_model.losses.config import WorldLossConfig
from fw_model.model.model import FantasyWorld, WorldOutput
from fw_train.config.load import from_mapping
from fw_train.config.schema import LossConfig, Stage, TrainConfig
from fw_train.data.split import split_clips
from fw_train.engine.checkpoint import CheckpointStore
from fw_train.engine.distributed import Context
from fw_train.model_bundle import ModelBundle, load_bundle
from fw_train.tasks.stages import (
    LOSSES,
    TRAINED,
    Batch,
    choose_parameters,
    frozen_parameters,
    offloaded_blocks,
    place,
)
from fw_train.tasks.world_task import WorldTask

CPU = Context(store=CheckpointStore(Path("unused")), device=torch.device("cpu"))

DRAWS = [Draw(0, 0, 0), Draw(3, 0, 1)]


@pytest.fixture
def base(mini: Path, dataset: Path) -> TrainConfig:
    tree = {"model": str(mini), "data": str(dataset), "batch": 2, "clip": {"frames": 5, "height": 32, "width": 48}}
    return from_mapping(tree, TrainConfig(stage="base"))


def make(config: TrainConfig, stage: Stage, unfreeze_geometry: bool = False, **changes: object) -> WorldTask:
    assert config.data is not None
    bundle: ModelBundle = load_bundle(config)
    awake(bundle.world)
    choose_parameters(bundle.world, stage, unfreeze={"geometry"} if unfreeze_geometry else ())
    data = ClipDataset(config.data)
    config = from_mapping({"stage": stage, **changes}, config)
    return WorldTask(
        config,
        bundle,
        data,
        split_clips(data.records, config.clip),
        CPU,
        frozen="",
    )


@torch.no_grad()
def awake(world: FantasyWorld) -> None:
    """Gates and heads start at zero; move them so that every path carries a signal."""
    for index, (name, parameter) in enumerate(world.named_parameters()):
        if not parameter.any() or "gamma" in name:
            parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(index))


def gradients(task: WorldTask) -> dict[str, Tensor]:
    task.loss(0, DRAWS)["loss"].backward()
    return {name: p.grad for name, p in task.world.named_parameters() if p.grad is not None}


def numbers(task: WorldTask, step: int, draws: list[Draw]) -> dict[str, float]:
    with torch.no_grad():
        return {name: float(value) for name, value in task.loss(step, draws).items()}


def drawn(task: WorldTask) -> Batch:
    """The batch that the task would train on."""
    return drawn_at(task, 0)


def drawn_at(task: WorldTask, step: int) -> Batch:
    """The same at another step."""
    seen: list[Batch] = []

    def catch(_world: FantasyWorld, batch: Batch, _config: WorldLossConfig) -> dict[str, Tensor]:
        seen.append(batch)
        return {"loss": torch.zeros(())}

    loss, task._loss = task._loss, catch
    task.loss(step, DRAWS)
    task._loss = loss
    return seen[0]


@pytest.mark.parametrize("stage", ["base", "stage1", "stage2"])
def test_only_the_stage_s_parameters_get_gradients(base: TrainConfig, stage: Stage) -> None:
    task = make(base, stage)
    got = gradients(task)
    assert {task.world.parameter_group(name) for name in got} == TRAINED[stage]
    expected = {n for n, _ in task.world.named_parameters() if task.world.parameter_group(n) in TRAINED[stage]}
    idle = {name for name in expected if "tokens.from_poses" in name}  # known poses are never given
    assert set(got) == expected - idle
    assert [name for name, gradient in got.items() if not gradient.isfinite().all()] == []
    assert [name for name, gradient in got.items() if not gradient.any()] == []


@pytest.mark.parametrize(("stage", "pooled"), [("base", False), ("stage1", False), ("stage2", False), ("stage2", True)])
def test_every_stage_reads_the_camera_of_a_controlled_backbone(
    base: TrainConfig, mini: Path, tmp_path: Path, stage: Stage, pooled: bool
) -> None:
    world = WorldConfig.from_json(mini.read_text())
    video = dataclasses.replace(world.video, control_dim=24, control_pooled=pooled)
    model = tmp_path / "controlled.json"
    model.write_text(dataclasses.replace(world, video=video, camera=None).to_json())
    config = from_mapping({"model": str(model)}, base)
    task = make(config, stage)
    batch = drawn(task)
    assert batch.control is not None
    assert batch.control[0].any()
    assert not torch.equal(batch.control[0], batch.control[1])
    loss = LOSSES[stage]
    with torch.no_grad():
        seen = loss(task.world, batch, LossConfig())["loss"]
        blind = loss(task.world, dataclasses.replace(batch, control=0 * batch.control), LossConfig())["loss"]
    assert float(seen) != float(blind)
    dropped = drawn(make(config, stage, dropout={"camera": 1.0})).control
    assert dropped is not None
    assert not dropped.any()
    trained = [name for name in gradients(task) if "control_adapter" in name]
    assert bool(trained) == (stage == "base")


def test_stage2_can_train_the_geometry_too(base: TrainConfig) -> None:
    task = make(base, "stage2", unfreeze_geometry=True)
    got = gradients(task)
    assert {task.world.parameter_group(name) for name in got} == {"cross_branch", "geometry"}


def test_stage1_never_executes_the_later_video_blocks_the_head_or_the_couplings(base: TrainConfig) -> None:
    task = make(base, "stage1")
    executed = list(watch(task.world))
    task.loss(0, DRAWS)["loss"].backward()
    names = [name for name, calls in executed if calls]
    assert any(name.startswith("pcb.0") for name in names)
    assert any(name.startswith("irg.0.frame") for name in names)
    assert not [n for n in names if n.startswith(("irg.0.video", "irg.1.video", "video.head", "pose_encoder"))]
    assert not [n for n in names if ".coupling" in n]
    assert not any(key.startswith("loss/flow") for key in task.loss(0, DRAWS))


def test_base_never_executes_geometry(base: TrainConfig) -> None:
    task = make(base, "base")
    executed = list(watch(task.world))
    terms = task.loss(0, DRAWS)
    names = [name for name, calls in executed if calls]
    assert not [n for n in names if n.startswith(("geometry", "pose_encoder")) or ".frame" in n or ".coupling" in n]
    assert set(terms) == {"loss", "loss/flow"}


def watch(world: FantasyWorld) -> Iterator[tuple[str, list[int]]]:
    """Every submodule with a list that grows when it runs."""
    for name, module in world.named_modules():
        if name:
            calls: list[int] = []
            module.register_forward_pre_hook(lambda _m, _a, calls=calls: calls.append(1))
            yield name, calls


def test_the_loss_is_the_weighted_sum_of_its_terms(base: TrainConfig) -> None:
    weights = {"depth": {"weight": 2.0}, "points": {"weight": 0.5}, "camera": {"weight": 7.0}}
    task = make(base, "stage2", loss={"geometry": 0.3, **weights})
    terms = numbers(task, 0, DRAWS)
    geometry = 2.0 * terms["loss/depth"] + 0.5 * terms["loss/points"] + 7.0 * terms["loss/camera"]
    assert terms["loss/geometry"] == pytest.approx(geometry, rel=1e-5)
    assert terms["loss"] == pytest.approx(terms["loss/flow"] + 0.3 * geometry, rel=1e-5)
    assert terms["balance/geometry_over_flow"] == pytest.approx(0.3 * geometry / terms["loss/flow"], rel=1e-5)


def test_lambda_zero_leaves_the_heads_out(base: TrainConfig) -> None:
    task = make(base, "stage2", loss={"geometry": 0.0})
    executed = list(watch(task.world))
    assert {name for name in task.loss(0, DRAWS) if not name.startswith("health")} == {"loss", "loss/flow"}
    assert not [name for name, calls in executed if calls and "_head" in name]


def test_a_sample_s_loss_does_not_depend_on_its_batch(base: TrainConfig) -> None:
    task = make(base, "stage2")
    together = numbers(task, 4, DRAWS)
    alone = [numbers(task, 4, [draw]) for draw in DRAWS]
    for name in ("loss", "loss/flow", "loss/depth", "loss/points", "loss/camera"):
        assert together[name] == pytest.approx((alone[0][name] + alone[1][name]) / 2, rel=1e-5), name


def test_noise_follows_seed_step_and_slot(base: TrainConfig) -> None:
    task = make(base, "base")
    first = numbers(task, 1, DRAWS)
    assert numbers(task, 1, DRAWS) == first
    assert numbers(task, 2, DRAWS) != first
    assert numbers(task, 1, [d._replace(slot=d.slot + 2) for d in DRAWS]) != first
    other = make(base, "base", seed=1)
    other.world.load_state_dict(task.world.state_dict())
    assert numbers(other, 1, DRAWS) != first


def test_dropout_removes_its_input(base: TrainConfig) -> None:
    removed: dict[str, Callable[[Batch], bool]] = {
        "text": lambda batch: not batch.context.any(),
        "image": lambda batch: batch.y is not None and not batch.y.any(),
        "camera": lambda batch: batch.plucker is not None and not batch.plucker.rays.any(),
        "cross_branch": lambda batch: not batch.cross_branch,
    }
    never = numbers(make(base, "stage2", dropout={"text": 0.0}), 0, DRAWS)["loss/flow"]
    for what in removed:
        always = make(base, "stage2", dropout={"text": 0.0, what: 1.0})
        assert numbers(always, 0, DRAWS)["loss/flow"] != never, what
        batch = drawn(always)
        assert [name for name, gone in removed.items() if gone(batch)] == [what]


def test_windows_start_at_multiples_of_the_step_and_reach_the_end(base: TrainConfig) -> None:
    task = make(base, "base")
    config = task.config

    def starts(**clip: object) -> set[int]:
        task.config = from_mapping({"clip": clip}, config)
        return {task._start(record, epoch) for record in task.split.train for epoch in range(6)}

    assert starts(start_step=1) == {0, 1, 2}  # seven frames, windows of five
    assert starts(start_step=2) == {0, 2}
    assert starts(start_step=4) == {0}
    assert starts(random_start=False) == {0}


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_activation_checkpointing_gives_the_same_gradients_bit_for_bit(base: TrainConfig, stage: Stage) -> None:
    plain = gradients(make(base, stage))
    for kind in ("full", "selective"):
        recomputed = gradients(make(base, stage, compute={"activation_checkpointing": kind}))
        assert plain.keys() == recomputed.keys()
        assert all(torch.equal(plain[name], recomputed[name]) for name in plain), kind


@pytest.mark.parametrize(
    ("stage", "compute"),
    [
        ("stage1", {"offload_blocks": 1}),
        ("stage2", {"offload_blocks": 2, "offload_activations": True, "activation_checkpointing": "selective"}),
    ],
)
def test_offloading_gives_the_same_gradients_bit_for_bit(
    base: TrainConfig, stage: Stage, compute: dict[str, object]
) -> None:
    trains_geometry = stage == "stage2"
    plain = gradients(make(base, stage, trains_geometry))
    task = make(base, stage, trains_geometry, compute=compute)
    offloaded = gradients(task)
    assert plain.keys() == offloaded.keys()
    assert all(torch.equal(plain[name], offloaded[name]) for name in plain)
    stream, inputs = task.world._stream, task.world._block_inputs
    assert stream is not None
    assert len({move.name for move in stream.offloader.log}) == compute["offload_blocks"]
    assert stream.offloader.resident == []
    assert (inputs is None) == (stage == "stage1")
    if inputs is not None:  # video, then both streams in two blocks
        assert inputs.packed == inputs.unpacked == 1 + 2 * 2


def test_only_frozen_weights_of_offloaded_blocks_stay_on_the_host(base: TrainConfig) -> None:
    world, config = load_bundle(base).world, from_mapping({"stage": "stage2", "compute": {"offload_blocks": 2}}, base)
    choose_parameters(world, "stage2")
    trained = {name for name, parameter in world.named_parameters() if parameter.requires_grad}
    place(world, torch.device("meta"), offloaded=frozen_parameters(offloaded_blocks(world, config)))
    host = {name for name, parameter in world.named_parameters() if not parameter.is_meta}
    blocks = ("pcb.0.", "irg.0.")
    assert host == {name for name, _ in world.named_parameters() if name.startswith(blocks)} - trained
    assert any(name.startswith(blocks) for name in trained)


def test_bf16_stays_close_to_fp32_and_gradients_stay_fp32(base: TrainConfig) -> None:
    exact, half = make(base, "stage2"), make(base, "stage2", compute={"precision": "bf16"})
    assert numbers(half, 0, DRAWS)["loss"] == pytest.approx(numbers(exact, 0, DRAWS)["loss"], rel=0.05)
    assert {gradient.dtype for gradient in gradients(half).values()} == {torch.float32}


def test_validation_is_the_same_every_time_whatever_the_seed_or_batch(base: TrainConfig) -> None:
    task = make(base, "stage1")
    with torch.no_grad():
        first = task.validate()
        assert task.validate() == first
        other = make(base, "stage1", seed=5, batch=1)
        other.world.load_state_dict(task.world.state_dict())
        for name, value in other.validate().items():
            assert value == pytest.approx(first[name], rel=1e-4), name
    levels = [value for name, value in first.items() if name.startswith("loss@")]
    assert len(levels) == 3
    assert sum(levels) / 3 == pytest.approx(first["loss"])


def test_the_labels_are_in_units_of_the_scene(base: TrainConfig) -> None:
    task = make(base, "stage2")
    batch = drawn(task)
    targets = batch.targets
    assert targets is not None
    assert batch.plucker is not None
    torch.testing.assert_close(targets.points.norm(dim=-1).mean(dim=(1, 2, 3)), torch.ones(2))
    # a ray's moment is its camera's center times its direction, so the camera path is in the same units
    direction, moment = batch.plucker.rays[..., 3:], batch.plucker.rays[..., :3]
    center = -targets.pose_encoding[..., :3]  # this camera only slides: t = -c
    expected = torch.cross(center[:, :, None, None].expand_as(direction), direction, dim=-1)
    torch.testing.assert_close(moment, expected, rtol=1e-4, atol=1e-5)


def test_the_table_names_every_part_and_its_state(base: TrainConfig) -> None:
    world = FantasyWorld(load_bundle(base).world.config)
    table = choose_parameters(world, "stage2")
    trained = sum(p.numel() for p in world.parameters_of("cross_branch"))
    total = sum(p.numel() for p in world.parameters())
    assert table[-1].strip() == f"{trained:,} of {total:,} parameters are trained"
    assert any("pose_encoder" in line and line.endswith("trained") for line in table)
    assert any("geometry.depth_head" in line and line.endswith("frozen") for line in table)


def test_the_mini_world_is_what_the_file_says(base: TrainConfig, mini: Path) -> None:
    assert load_bundle(base).world.config == WorldConfig.from_json(mini.read_text())


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_dense_heads_on_some_frames_see_the_same_maps(base: TrainConfig, stage: Stage) -> None:
    """Frames are drawn by step; their maps, and the gradient of a loss on them, are those of a pass over all frames."""
    task = make(base, stage, unfreeze_geometry=stage == "stage2", loss={"dense_frames": 2})
    batch = drawn(task)
    assert batch.dense_frames is not None
    assert len(batch.dense_frames) == 2
    frames = {drawn_at(task, step).dense_frames for step in range(8)}
    assert len(frames) > 3
    run = task.world.forward_geometry if stage == "stage1" else task.world
    inputs = {"context": batch.context, "y": batch.y, "plucker": batch.plucker}
    grads: list[dict[str, Tensor]] = []
    maps: list[Tensor] = []
    for chosen in (None, batch.dense_frames):
        task.world.zero_grad()
        out = run(batch.clean, 500 * torch.ones(2), **inputs, dense_frames=chosen)
        geometry = out.geometry if isinstance(out, WorldOutput) else out
        assert geometry is not None
        kept = list(batch.dense_frames) if chosen is None else slice(None)
        dense = torch.cat([geometry.depth[..., None], geometry.points], dim=-1)[:, kept]
        assert geometry.pose_encodings[-1].shape[1] == 5
        (dense.square().mean() + geometry.pose_encodings[-1].square().mean()).backward()
        maps.append(dense.detach())
        grads.append({n: p.grad.clone() for n, p in task.world.named_parameters() if p.grad is not None})
    torch.testing.assert_close(maps[0], maps[1], rtol=1e-5, atol=1e-6)
    assert grads[0].keys() == grads[1].keys()
    for name, gradient in grads[0].items():
        torch.testing.assert_close(gradient, grads[1][name], rtol=1e-3, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_drawing_dense_frames_is_part_of_the_run_s_identity() -> None:
    assert TrainConfig(loss=LossConfig(dense_frames=1)).digest() != TrainConfig().digest()
    assert TrainConfig(loss=LossConfig(dense_frames=0)).digest() == TrainConfig().digest()
