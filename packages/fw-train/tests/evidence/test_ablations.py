"""`python -m benchmarks.ablations` on a mini model: every arm is trained as named and measured beside the others."""

import json
from pathlib import Path

import pytest
import torch
from benchmarks.ablations import main

from fw_model.autoencoders.block_dct import BlockDCT
from fw_model.checkpoints.checkpoint import load_world
from fw_model.config import WorldConfig
from fw_model.encoders.hashing import HashTextEncoder
from fw_model.pipeline.components import save_components
from fw_model.pipeline.settings import Sampling
from fw_train.commands import train_stage
from fw_train.evidence.lines import read_lines

SHAPE = ["--clip.frames", "5", "--clip.height", "32", "--clip.width", "48", "--batch", "2"]
FAST = [*SHAPE, *("--set", "clip.pool=2", "--set", "clip.validate_on=1", "--every.sample", "0", "--optim.warmup", "0")]


def moved(run: Path, start: Path, group: str) -> bool:
    """Whether training changed the weights of a group that both models have."""
    before, after = (load_world(folder / "export", dtype=torch.float32) for folder in (start, run))
    old = dict(before.named_parameters())
    pairs = [(p, old[n]) for n, p in after.named_parameters() if after.parameter_group(n) == group and n in old]
    return any(not torch.equal(new, was) for new, was in pairs)


def test_all_arms_are_trained_and_measured(mini: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def train(stage: str, *words: str) -> Path:
        run = tmp_path / stage
        steps = ["--steps", "1", "--model", str(mini), "--out", str(run)]
        assert train_stage(stage, ["small-world", *FAST, *steps, *words]) == 0  # pyright: ignore[reportArgumentType]
        return run

    stage1 = train("stage1", "--init", str(train("base")))
    config = WorldConfig.from_json(mini.read_text())
    text = HashTextEncoder(text_len=config.video.text_len, text_dim=config.video.text_dim)
    autoencoder = tmp_path / "autoencoder"
    autoencoder.mkdir()
    save_components(autoencoder, BlockDCT(), text, None, Sampling())
    out = tmp_path / "ablation"
    words = ["--out", str(out), "--stage1", str(stage1), "--autoencoder", str(autoencoder), "--model", str(mini)]
    words += ["--samples", "4", "--scratch-samples", "4", "--seeds", "1", "--clips", "1", "--sampling-steps", "1"]
    main([*words, *FAST])
    lines = read_lines(out / "coupling" / "clips.jsonl")
    assert {line.model for line in lines} == {
        "reference",
        "both ways",
        "geometry reads video",
        "video reads geometry",
        "neither",
    }
    # the coupling gates that an arm has, and no others, have left zero
    for direction, gates in (
        ("both", {"gamma_video", "gamma_geometry"}),
        ("to_video", {"gamma_video"}),
        ("to_geometry", {"gamma_geometry"}),
        ("none", set()),
    ):
        world = load_world(out / f"{direction}-0" / "export", dtype=torch.float32)
        found = {name.split(".")[-1] for name, p in world.named_parameters() if "gamma_" in name and p.abs().max() > 0}
        assert found == gates, direction
    assert "difference from both ways" in (out / "coupling" / "evidence.md").read_text()

    lines = {line.model: line.scores for line in read_lines(out / "scratch" / "clips.jsonl")}
    assert set(lines) == {"reference", "joint", "video alone", "video alone, equal time"}
    assert "own/depth/abs_rel" in lines["joint"]
    assert "own/depth/abs_rel" not in lines["video alone"]
    assert all("latent_error@0.8" in lines[name] for name in lines if name != "reference")
    alone, joint, longer = (out / f"{name}-0" for name in ("video-alone", "joint", "video-alone-equal-time"))
    steps = [json.loads((run / "config.json").read_text())["steps"] for run in (alone, joint, longer)]
    assert steps[0] == steps[1] == 2
    assert steps[2] >= 1
    assert moved(joint, alone, "geometry")
    assert moved(joint, alone, "video")  # same seed and samples: the geometry losses reach the video
