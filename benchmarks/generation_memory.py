"""The generation memory bench: `python -m benchmarks.generation_memory` compares planned with measured peaks.

Each case generates a world with random weights on the CPU in a process of its own, and measures by how much its
resident memory grows at most in each phase. Writes generation_memory.json and generation_memory.md; exits 1 if the
largest phase of a case is off by more than 10 %.
"""

import argparse
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.loading import status_bytes
from benchmarks.train import EXACT_HEAP, cut
from fw_geometry import make_trajectory
from fw_model.autoencoders.block_dct import BlockDCT
from fw_model.autoencoders.wan_vae import WanVAE
from fw_model.config import WorldConfig, preset
from fw_model.encoders.hashing import HashTextEncoder
from fw_model.layers.float32 import Float32Module
from fw_model.layers.stored_weights import store_weight
from fw_model.model.model import FantasyWorld
from fw_model.pipeline.pipeline import WorldPipeline
from fw_model.pipeline.settings import Sampling
from fw_model.planning.generation import PHASES, GenerationChoice, GenerationParts, plan_generation

LIMIT = 0.1
SIZES = {"frames": 9, "height": 160, "width": 256}
CASES: dict[str, dict[str, Any]] = {
    "tiny": {"model": "tiny", "frames": 17, "height": 240, "width": 416},
    "1.3B, 2 + 3 blocks": {"model": "cut", **SIZES, "dtype": "float32"},
    "1.3B, 2 + 3 blocks, bf16": {"model": "cut", **SIZES, "dtype": "bfloat16"},
    "1.3B, 2 + 3 blocks, fp8": {"model": "cut", **SIZES, "dtype": "bfloat16", "weights": "fp8"},
    "1.3B, 2 + 3 blocks, Wan VAE": {"model": "cut", **SIZES, "dtype": "bfloat16", "vae": "wan"},
}
"""Name -> model, size, types."""


def config_of(case: dict[str, Any]) -> WorldConfig:
    """The model of a case; the cut one without CLIP, whose encoder has weights of its own."""
    if case["model"] != "cut":
        return preset(case["model"])
    config = cut(2, 3)
    return replace(config, video=replace(config.video, clip_dim=None))


def autoencoder_of(case: dict[str, Any]) -> BlockDCT | WanVAE:
    """The fixed transform, or Wan's architecture at a third of its width."""
    return WanVAE.small(base_dim=32) if case.get("vae") == "wan" else BlockDCT()


def choice_of(case: dict[str, Any]) -> GenerationChoice:
    """The options of a case."""
    size = {name: case[name] for name in ("frames", "height", "width")}
    return GenerationChoice(
        **size, dtype=getattr(torch, case.get("dtype", "float32")), weights=case.get("weights"), guided=True
    )


def planned(case: dict[str, Any]) -> dict[str, int]:
    """Bytes of each phase by the plan."""
    parts = GenerationParts(autoencoder=autoencoder_of(case), text_encoder=0)
    plan = plan_generation([config_of(case)], parts, choice_of(case))
    return {phase: sum(plan.phases[phase].values()) for phase in PHASES}


def measure(case: dict[str, Any]) -> dict[str, int]:
    """Bytes of each phase in this process: the largest resident memory above that before the model is built."""
    torch.set_num_threads(1)
    _generate(WorldPipeline(FantasyWorld(preset("tiny")), BlockDCT(), HashTextEncoder()), 5, 32, 48)  # loads kernels
    WanVAE.small().decode(torch.zeros(1, 16, 1, 4, 4))  # imports diffusers
    before = status_bytes("VmRSS")
    choice, config = choice_of(case), config_of(case)
    world = random_world(config, choice)
    text = HashTextEncoder(text_len=config.video.text_len, text_dim=config.video.text_dim)
    pipeline = WorldPipeline(world, autoencoder_of(case), text, sampling=Sampling(num_inference_steps=1))
    peaks = _generate(pipeline, choice.frames, choice.height, choice.width)
    return {phase: peak - before for phase, peak in peaks.items()}


def random_world(config: WorldConfig, choice: GenerationChoice) -> FantasyWorld:
    """A model with small random weights in the types of a case, made tensor by tensor."""
    with torch.device("meta"):
        world = FantasyWorld(config).eval()
    exact = tuple(f"{name}." for name, module in world.named_modules() if isinstance(module, Float32Module))
    for name, parameter in list(world.named_parameters()):
        dtype = torch.float32 if name.startswith(exact) else choice.dtype
        owner, _, leaf = name.rpartition(".")
        layer = world.get_submodule(owner)
        value = torch.empty(parameter.shape, dtype=dtype).normal_(0.0, 0.01)
        layer._parameters[leaf] = torch.nn.Parameter(value, requires_grad=False)
        linear = isinstance(layer, torch.nn.Linear) and leaf == "weight" and name.startswith(("pcb.", "irg."))
        if choice.weights is not None and linear:
            assert isinstance(layer, torch.nn.Linear)
            store_weight(layer, choice.weights)
    return world


def _generate(pipeline: WorldPipeline, frames: int, height: int, width: int) -> dict[str, int]:
    """Generate one step of a world; the peak resident memory of each phase."""
    image = Image.new("RGB", (width, height), (90, 120, 60))
    path = make_trajectory("dolly", frames, width=width, height=height)
    peaks: dict[str, int] = {}
    _forget_peak()
    for report in pipeline.generate(image, "a lake", path, num_inference_steps=1, guidance_scale=5.0):
        if report.step == report.steps:
            peaks[report.stage] = status_bytes("VmHWM")
            _forget_peak()
    return peaks


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def in_own_process(name: str, what: str) -> dict[str, int]:
    """The planned or measured bytes of a case."""
    words = [sys.executable, "-m", "benchmarks.generation_memory", "--case", name, "--what", what]
    environment = {**os.environ, **EXACT_HEAP, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    """Run the bench, or one of its processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("bench"))
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--what", choices=("planned", "measured"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case is not None:
        print(json.dumps({"planned": planned, "measured": measure}[options.what](CASES[options.case])))
        return 0
    lines = ["| case | phase | planned | measured | measured / planned |", "|---|---|---:|---:|---:|"]
    result, worst = {}, 0.0
    for name in CASES:
        plan, real = in_own_process(name, "planned"), in_own_process(name, "measured")
        result[name] = {"planned": plan, "measured": real}
        phase = max(PHASES, key=lambda one: plan[one])
        worst = max(worst, abs(real[phase] / plan[phase] - 1))
        for one in PHASES:
            ratio = real[one] / plan[one]
            lines.append(f"| {name} | {one} | {plan[one] / 1e6:,.0f} | {real[one] / 1e6:,.0f} | {ratio:.2f} |")
            print(lines[-1], flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "generation_memory.json").write_text(json.dumps(result, indent=1) + "\n")
    (options.out / "generation_memory.md").write_text("\n".join(lines) + "\n")
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
