"""The plan: FLOPs against hand formulas and torch's counter, memory against the real step, and what is printed."""

import dataclasses
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from fw_data.dataset.clip_order import Draw
from fw_data.dataset.reader import ClipDataset
from fw_model.config import preset
from fw_model.layers.recompute import Recompute
from fw_model.model.model import FantasyWorld
from fw_model.planning.meter import HOST, StepMeter
from fw_train.cli import main
from fw_train.config.check import check
from fw_train.config.load import from_mapping, load
from fw_train.config.recipes.machines import Machine, machine
from fw_train.config.schema import ConfigError, Stage, TrainConfig
from fw_train.data.split import shapes_of, split_clips
from fw_train.engine.checkpoint import CheckpointStore
from fw_train.engine.distributed import Context
from fw_train.model_bundle import load_bundle
from fw_train.plan.encoders import encoder_work
from fw_train.plan.options import PlanOptions
from fw_train.plan.plan import (
    MeteredActivations,
    MeteredOffloader,
    Plan,
    make_plan,
    meta_batch,
    on_meta,
    run_step,
    to_meta,
)
from fw_train.plan.report import fits, run_time, total_gib
from fw_train.tasks.stages import LOSSES, Batch, choose_parameters, frozen_parameters, offloaded_blocks
from fw_train.tasks.world_task import WorldTask

CPU = Context(store=CheckpointStore(Path("unused")), device=torch.device("cpu"))

ATTEND = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
ATTEND_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
SMALL = {"frames": 5, "height": 32, "width": 48}


def plan_of(stage: Stage, model: str = "tiny", *, device: str = "cuda", gpus: int = 1, **changes: object) -> Plan:
    tree = {"model": model, "batch": 1, "clip": SMALL, **changes}
    return make_plan(from_mapping(tree, TrainConfig(stage=stage)), gpus=gpus, device=device)


def work(plan: Plan) -> dict[str, tuple[int, int, int]]:
    return {row.part: (row.forward, row.recompute, row.backward) for row in plan.work}


@pytest.mark.parametrize("model", ["tiny", "wan21_fun_1_3b", "wan21_i2v_14b"])
def test_video_and_geometry_blocks_take_what_a_hand_formula_says(model: str) -> None:
    config = preset(model)
    video, geometry = config.video, config.geometry
    done = work(plan_of("stage1", model))
    tokens, patches = 2 * 2 * 3, 2 * 3
    context = video.text_len + (video.clip_len if video.clip_dim is not None else 0)
    linear = 2 * tokens * (6 * video.dim**2 + 2 * video.dim * video.ffn_dim) + 4 * context * video.dim**2
    attention = 4 * tokens**2 * video.dim + 4 * tokens * context * video.dim
    assert done["video blocks: PCB"] == (config.pcb_blocks * (linear + attention), 0, 0)
    assert "video blocks: IRG" not in done
    assert "cross-branch attention" not in done
    each = patches + geometry.num_special_tokens
    rows, width = 2 * each, geometry.width
    layer_linear = 2 * (2 * rows * (4 + 2 * geometry.mlp_ratio) * width**2)
    layer_attention = 4 * width * (2 * each**2 + rows**2)
    forward, recompute, backward = done["geometry layers"]
    assert forward == config.irg_blocks * (layer_linear + layer_attention)
    assert recompute == 0
    # two products per linear layer, and attention's own five for the two of its forward pass
    assert backward == config.irg_blocks * (2 * layer_linear + layer_attention * 5 // 2)


def test_stage2_sends_gradients_through_frozen_blocks_and_recomputes_with_checkpointing() -> None:
    plain = work(plan_of("stage2"))
    again = work(plan_of("stage2", compute={"activation_checkpointing": "full"}))
    for part in ("video blocks: PCB", "video blocks: IRG", "geometry layers", "cross-branch attention", "dense heads"):
        assert plain[part][1] == 0
        assert again[part][0] == plain[part][0]
        assert again[part][2] == plain[part][2], part
        assert 0.9 * plain[part][0] <= again[part][1] <= plain[part][0], part
    config = preset("tiny")
    tokens, text = 12, config.video.text_len
    frozen = 2 * tokens * (6 * config.video.dim**2 + 2 * config.video.dim * config.video.ffn_dim)
    attention = 4 * (tokens**2 + tokens * text) * config.video.dim
    blocks = config.irg_blocks
    assert plain["video blocks: IRG"][0] == blocks * (frozen + 4 * text * config.video.dim**2 + attention)
    assert plain["video blocks: IRG"][2] == blocks * (frozen + attention * 5 // 2)  # no gradients of frozen weights


Real = dict[Stage, tuple[WorldTask, Batch]]


@pytest.fixture(scope="module")
def real(mini: Path, dataset: Path) -> Real:
    """The tasks of both stages on the mini world, as a run makes them, with a batch of two samples."""
    base = from_mapping(
        {"model": str(mini), "data": str(dataset), "batch": 2, "clip": SMALL}, TrainConfig(stage="base")
    )
    data = ClipDataset(dataset)
    tasks: Real = {}
    stages: tuple[Stage, ...] = ("stage1", "stage2")
    for stage in stages:
        bundle = load_bundle(base)
        choose_parameters(bundle.world, stage)
        config = from_mapping({"stage": stage}, base)
        task = WorldTask(
            config,
            bundle,
            data,
            split_clips(data.records, config.clip),
            CPU,
            frozen="",
        )
        seen: list[Batch] = []
        task._loss = lambda _world, batch, _config, seen=seen: seen.append(batch) or {"loss": torch.zeros(())}
        task.loss(0, [Draw(0, 0, 0), Draw(3, 0, 1)])
        tasks[stage] = (task, seen[0])
    return tasks


KINDS: list[tuple[Stage, Recompute]] = [
    ("stage1", "none"),
    ("stage1", "full"),
    ("stage2", "full"),
    ("stage2", "selective"),
]


@pytest.mark.parametrize(("stage", "kind"), KINDS)
def test_flops_are_those_of_the_real_step(real: Real, stage: Stage, kind: Recompute) -> None:
    task, batch = real[stage]
    task.world.set_checkpointing(kind)
    formulas = {
        ATTEND: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
        ATTEND_BACKWARD: lambda g, q, k, v, *_, **__: sdpa_backward_flop_count(g, q, k, v),
    }
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        LOSSES[stage](task.world, batch, task.config.loss)["loss"].backward()
    compute = {"activation_checkpointing": kind}
    assert make_plan(from_mapping({"compute": compute}, task.config), device="cpu").flops == counter.get_total_flops()


@pytest.mark.parametrize(
    ("stage", "precision", "kind", "blocks"),
    [
        ("stage1", "fp32", "none", 0),
        ("stage2", "bf16", "none", 0),
        ("stage2", "fp32", "full", 0),
        ("stage1", "bf16", "full", 0),
        ("stage1", "fp32", "none", 1),
        ("stage2", "bf16", "full", 3),
    ],
)
def test_memory_is_that_of_the_real_step(
    real: Real, stage: Stage, precision: str, kind: Recompute, blocks: int
) -> None:
    """With offloaded blocks also their copies, and block inputs in host memory."""
    task, batch = real[stage]
    task.world.zero_grad(set_to_none=True)
    offload = {"offload_blocks": blocks, "offload_activations": blocks > 0 and kind != "none"}
    compute = {"precision": precision, "activation_checkpointing": kind, **offload}
    config = from_mapping({"compute": compute}, task.config)
    meter = StepMeter(task.world, task.world.part_of)
    swapped = offloaded_blocks(task.world, config)
    meter.adopt(frozen_parameters(swapped), HOST)
    away = {id(p) for p in frozen_parameters(swapped)}
    meter.adopt([*(p for p in task.world.parameters() if id(p) not in away), *task.world.buffers()], "weights")
    task.world.stream_blocks(MeteredOffloader(meter, "cpu"), blocks=swapped)
    task.world.set_checkpointing(kind, MeteredActivations(meter) if config.compute.offload_activations else None)
    meter.adopt((value for value in tree_leaves(_fields(batch)) if isinstance(value, torch.Tensor)), "batch")
    with meter:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = LOSSES[stage](task.world, batch, config.loss)["loss"]
        meter.phase = "backward"
        loss.backward()
    task.world.stream_blocks(None)
    task.world.set_checkpointing("none")
    with on_meta():
        planned = FantasyWorld(task.world.config)
    choose_parameters(planned, stage)
    plan = run_step(config, to_meta(planned), 2, device="cpu", optimizer=False)
    estimate = plan.peak
    assert plan.host_peak == pytest.approx(meter.host_peak, rel=0.02)
    assert (plan.host_peak > 0) == (blocks > 0)
    if stage == "stage2":  # stage 1 leaves idle blocks out
        weights = sum(estimate[label] for label in ("trained weights", "frozen weights"))
        assert weights == meter.peak["weights"] + meter.peak["frozen weights"]
    assert estimate["batch"] == meter.peak["batch"]
    assert estimate["gradients"] + estimate["activations"] == pytest.approx(
        meter.peak["gradients"] + meter.peak["activations"], rel=0.02
    )


def _fields(batch: Batch) -> list[object]:
    nested = [vars(part).values() for part in (batch.targets, batch.plucker) if part is not None]
    return [*vars(batch).values(), *(value for values in nested for value in values)]


def test_what_stays_in_memory_is_booked_to_the_byte(mini: Path) -> None:
    plan = plan_of("stage2", str(mini), optim={"ema": 0.9}, batch=2, accumulate=2)
    trained = sum(row.trained for row in plan.parameters)
    frozen = sum(row.frozen for row in plan.parameters)
    assert plan.memory["trained weights"] == 4 * trained
    assert plan.memory["optimizer"] == 8 * trained
    assert plan.memory["moving average"] == 4 * trained
    assert plan.memory["gradients"] == 4 * trained  # of the first micro-batch, at any moment of the second
    tables = plan.memory["frozen weights"] - 4 * frozen
    assert 0 < tables < 4 * 1024 * 4 * 3 * 12 * 2 * 2 * 2
    assert plan.bytes == sum(plan.memory.values())


def test_the_meter_knows_when_tensors_die() -> None:
    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.empty(8, 8, device="meta"))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return ((x @ self.weight).relu() @ self.weight).relu()

    chain = Chain()
    meter = StepMeter(chain, lambda _name: "chain")
    meter.adopt(chain.parameters(), "weights")
    with meter:
        x = torch.empty(4, 8, device="meta")
        with torch.no_grad():
            out = chain(x)
    each = 4 * 8 * 4
    assert meter.peak == Counter({"weights": 8 * 8 * 4, "activations": 3 * each})  # input, one, and the next
    assert meter.live() == {"weights": 8 * 8 * 4, "activations": 2 * each}
    del x, out
    assert meter.live() == {"weights": 8 * 8 * 4}
    assert meter.flops == Counter({("chain", "forward"): 2 * 2 * 4 * 8 * 8})
    products = [(one.count, one.flops) for one in meter.operations() if one.flops]
    assert products == [(2, 2 * 4 * 8 * 8)]  # the same shapes twice


def test_checkpointing_and_bf16_save_memory_and_a_batch_costs_it() -> None:
    def activations(**changes: Any) -> int:
        return plan_of("stage2", clip={"frames": 9, "height": 64, "width": 96}, **changes).memory["activations"]

    plain = activations()
    assert activations(compute={"activation_checkpointing": "full"}) < plain / 2
    assert activations(batch=2) == pytest.approx(2 * plain, rel=0.1)
    # several samples: the bfloat16 copies of the trained weights are as large as what one so small sample saves
    assert activations(batch=4, compute={"precision": "bf16"}) < 0.8 * activations(batch=4)


def test_gpus_and_accumulation_cut_the_batch(mini: Path) -> None:
    whole = plan_of("stage1", str(mini), batch=8)
    cut = plan_of("stage1", str(mini), batch=8, accumulate=2, gpus=2)
    assert (whole.micro_batch, cut.micro_batch) == (8, 2)
    assert cut.flops == whole.flops
    assert cut.memory["activations"] < whole.memory["activations"]
    with pytest.raises(ConfigError, match=r"batch = 8 .*3 GPUs.*accumulate = 1"):
        plan_of("stage1", str(mini), batch=8, gpus=3)


def test_the_encoders_of_the_wan_presets_are_counted() -> None:
    video, text, image = encoder_work(preset("wan21_fun_1_3b"), 81, 336, 592)
    assert video.flops == pytest.approx(79_843_926_048_768, rel=1e-4)  # FlopCounterMode on the whole encoder
    assert encoder_work(preset("wan21_fun_1_3b"), 9, 64, 64)[0].flops == pytest.approx(164_386_701_312, rel=1e-4)
    assert text.flops > 2 * 512 * text.parameters  # and the attentions
    assert [row.name[:4] for row in (text, image)] == ["text", "imag"]
    assert encoder_work(preset("tiny"), 17, 64, 96) == []


def test_lora_is_counted(mini: Path) -> None:
    rows = {row.part: row for row in plan_of("stage2", str(mini), lora={"rank": 2}).parameters}
    # four square layers of 24 twice, and two of 24 x 32, in three blocks
    assert (rows["LoRA adapters"].trained, rows["LoRA adapters"].frozen) == (3 * 2 * (8 * 48 + 2 * 56), 0)
    assert rows["video blocks: PCB"].trained == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "stage"), [("one-gpu-24gb", "stage1"), ("one-gpu-24gb", "stage2"), ("8-gpu", "stage1")]
)
def test_the_tightest_recipes_fit_the_machines_they_are_for(recipe: str, stage: Stage) -> None:
    config = check(load(recipe, stage))
    chosen = machine(recipe, stage)
    plan = make_plan(config, gpus=chosen.gpus)
    spare = 2.0 if recipe == "one-gpu-24gb" else 0.0
    assert fits(plan, chosen), f"{total_gib(plan):.1f} GiB"
    assert total_gib(plan) + spare <= chosen.memory_gib, f"{total_gib(plan):.1f} GiB"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        ("stage1", {"compute": {"offload_blocks": 16}}),
        ("stage2", {"compute": {"offload_blocks": 40, "offload_activations": True}, "lora": {"rank": 16}}),
    ],
)
def test_the_14b_fits_24_gib_with_offloading_alone(stage: Stage, changes: dict[str, Any]) -> None:
    config = from_mapping({"model": "wan21_i2v_14b", **changes}, load("one-gpu-24gb", stage))
    chosen, plan = machine("one-gpu-24gb", stage), make_plan(config)
    assert fits(plan, chosen), f"{total_gib(plan):.1f} GiB"
    with on_meta():
        world = FantasyWorld(preset("wan21_i2v_14b"))
    block = max(2 * sum(p.numel() for p in one.parameters()) for one in (*world.pcb, *world.irg))  # bfloat16
    optimizer = 8 * sum(row.trained for row in plan.parameters)
    # without offloading, what is in host memory would be on the GPU instead of at most two blocks
    assert total_gib(plan) + (plan.host_memory - optimizer - 2 * block) / 2**30 > 1.2 * chosen.memory_gib


@pytest.mark.slow
def test_the_paper_s_recipe_on_the_14b_fits_the_paper_s_gpus() -> None:
    config = dataclasses.replace(load("paper", "stage2"), model="wan21_i2v_14b")
    chosen = machine("paper", "stage2")
    assert fits(make_plan(config, gpus=chosen.gpus), chosen)


def test_time_follows_from_peak_and_share_or_from_a_rate(mini: Path) -> None:
    plan = plan_of("stage1", str(mini), batch=2, steps=7200, gpus=2, compute={"activation_checkpointing": "full"})
    where = Machine(gpu="x", gpus=2, memory_gib=1.0, peak_tflops=plan.model_flops / 1e12)
    given = run_time(plan, where, mfu=0.25, samples_per_s=None)
    assert plan.model_flops < plan.flops
    assert (given.step_s, given.run_h, given.gpu_h) == pytest.approx((2.0, 4.0, 8.0))
    assert run_time(plan, where, mfu=0.25, samples_per_s=4.0).step_s == pytest.approx(0.5)


def test_the_command_prints_tables_and_json(mini: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "stage2", "tiny", "--model", str(mini), "--batch", "2", "--gpus", "2", "--memory-gib", "2"]
    assert main([*words, "--json", "--samples-per-s", "3"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["gpus"], printed["micro_batch"], printed["fits"]) == (2, 1, True)
    assert printed["time"]["step_s"] == pytest.approx(2 / 3)
    assert printed["memory_gib"]["tensors"] == pytest.approx(sum(printed["memory_bytes"].values()) / 2**30)
    words[-1] = "0.5"
    main([*words, "--set", "compute.offload_optimizer=true", "--compute.activation-checkpointing", "full"])
    printed = " ".join(capsys.readouterr().out.split())
    for text in ("cross-branch attention", "dense heads", "optimizer", "GiB offloaded", "nothing was run"):
        assert text in printed
    assert "DOES NOT FIT; use compute.offload_activations, compute.offload_blocks, fewer frames" in printed


def test_the_plan_counts_what_remains(
    mini: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = tmp_path / "data", tmp_path / "run"
    shutil.copytree(dataset, data)
    shape = ["--clip.frames", "5", "--clip.height", "32", "--clip.width", "48", "--batch", "2", "--steps", "10"]
    words = ["base", "tiny", "--model", str(mini), "--data", str(data), "--out", str(out), *shape]
    (out / "checkpoints" / "step-00000004").mkdir(parents=True)
    assert main(["plan", *words, "--json"]) == 0
    before = json.loads(capsys.readouterr().out)
    assert before["remaining"]["steps"] == 6
    assert before["time"]["run_h"] == pytest.approx(6 * before["time"]["step_s"] / 3600)
    assert (before["remaining"]["windows"], before["remaining"]["captions"]) == (12, 13)
    assert main(["encode", *words, "--compute.device", "cpu"]) == 0
    capsys.readouterr()
    assert main(["plan", *words, "--json"]) == 0
    after = json.loads(capsys.readouterr().out)["remaining"]
    assert (after["windows"], after["captions"]) == (0, 0)
    assert main(["plan", *words]) == 0
    first = before["remaining"]["lines"][0]
    assert "held out" in first
    assert first in capsys.readouterr().out


def test_the_plan_is_of_the_largest_bucket_and_the_optimizer_may_stay_on_the_host(mini: Path) -> None:
    clip = {"frames": 9, "height": 32, "width": 96, "frame_buckets": [5]}
    wide = plan_of("stage1", str(mini), clip=clip)
    square = plan_of("stage1", str(mini), clip={**clip, "aspect_buckets": True})
    assert (str(wide.shape), str(square.shape)) == ("9 frames of 96x32", "9 frames of 96x32")
    assert square.tokens == max(shape.tokens for shape in shapes_of(square.config.clip))
    there, away = (plan_of("stage1", str(mini), compute={"offload_optimizer": away}) for away in (False, True))
    assert away.memory["optimizer"] == 0
    assert there.memory["optimizer"] == 8 * sum(row.trained for row in there.parameters)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["plan"], "usage: fw-train plan STAGE CONFIG"),
        (["plan", "autoencoder", "tiny"], "where STAGE is one of base, stage1, stage2"),
        (["plan", "stage3", "tiny"], "where STAGE is one of base, stage1, stage2"),
        (["plan", "stage1"], "CONFIG comes first"),
        (["plan", "stage1", "one-gpu-24g"], "did you mean 'one-gpu-24gb'"),
        (["plan", "base", "paper"], "has no `base`"),
        (["plan", "stage1", "tiny", "--mfu", "0"], "--mfu 0.0 must be above 0"),
        (["plan", "stage1", "tiny", "--gpus", "3"], "cannot be cut into 3 GPUs"),
        (["plan", "stage1", "tiny", "--set", "compute.offload_blocks=9"], "offload_blocks = 9 is too many"),
        (["plan", "stage1", "tiny", "--model", "wan"], "names no preset"),
    ],
)
def test_bad_words_are_explained(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert message in capsys.readouterr().err


def test_options_replace_the_recipe_s_machine() -> None:
    usual = machine("8-gpu", "stage1")
    same = PlanOptions().machine(usual)
    assert same == usual
    other = PlanOptions(gpus=2, memory_gib=48.0).machine(usual)
    assert (other.gpus, other.memory_gib, other.peak_tflops) == (2, 48, usual.peak_tflops)
    assert (machine("paper", "stage1").gpus, machine("paper", "stage2").gpus) == (64, 112)


def test_a_meta_batch_has_the_shapes_of_a_real_one(real: Real) -> None:
    task, batch = real["stage2"]
    made = meta_batch(task.world.config, task.config, 2)
    shapes = [
        [(v.shape, v.dtype) if isinstance(v, torch.Tensor) else v is None for v in _fields(b)[:-1]]
        for b in (made, batch)
    ]
    assert shapes[0] == shapes[1]
