"""fw generate --lora: files and scales as they are typed, and the world they make."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from fw_app import cli
from fw_app.generate import parse_lora


def test_file_and_scale(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    file.touch()
    odd = tmp_path / "b:2"
    odd.touch()
    assert parse_lora(str(file)) == (file, 1.0)
    assert parse_lora(f"{file}:0.8") == (file, 0.8)
    assert parse_lora(f"{file}:-1") == (file, -1.0)
    assert parse_lora(str(odd)) == (odd, 1.0)
    assert parse_lora(f"{odd}:0.5") == (odd, 0.5)
    for text, named in ((f"{tmp_path}/c:0.5", "c"), (f"{file}:x", ":x"), (f"{file}:nan", "finite")):
        with pytest.raises(ValueError, match=named):
            parse_lora(text)


def test_generate_with_two_loras(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from fw_model.autoencoders.block_dct import BlockDCT
    from fw_model.config import tiny
    from fw_model.encoders.hashing import HashTextEncoder
    from fw_model.model.model import FantasyWorld
    from fw_model.pipeline.pipeline import WorldPipeline

    WorldPipeline(FantasyWorld(tiny(), seed=0), BlockDCT(), HashTextEncoder()).save(tmp_path / "checkpoint")
    Image.fromarray(np.full((40, 50, 3), 128, np.uint8)).save(tmp_path / "gray.png")
    for name, width in (("one", 160), ("two", 160), ("wide", 1536)):
        layer = "lora_unet_blocks_0_self_attn_q.lora_"
        state = {f"{layer}down.weight": torch.ones(2, width), f"{layer}up.weight": torch.ones(width, 2)}
        save_file(state, tmp_path / f"{name}.safetensors")
    words = ["generate", str(tmp_path / "gray.png"), "--checkpoint", str(tmp_path / "checkpoint"), "--device", "cpu"]
    words += ["--out", str(tmp_path / "world"), "--trajectory", "still", "--num-frames", "5"]
    words += ["--width", "32", "--height", "16", "--num-inference-steps", "1"]
    given = ["--lora", f"{tmp_path}/one.safetensors:0.8", "--lora", f"{tmp_path}/two.safetensors"]
    assert cli.main([*words, *given]) == 0
    assert "LoRA one: 1 layers, kohya layout, scale 0.8" in capsys.readouterr().out
    settings = json.loads((tmp_path / "world" / "world.json").read_text())["settings"]
    assert settings["loras"] == [{"name": "one", "scale": 0.8}, {"name": "two", "scale": 1.0}]
    assert cli.main([*words, "--lora", f"{tmp_path}/wide.safetensors"]) == 2
    assert "pcb.0.self_attn.q is 160 x 160 in the model and 1536 x 1536 in the file" in capsys.readouterr().err
    assert cli.main([*words, *given, "--server", "http://127.0.0.1:1"]) == 2
    assert "--lora cannot be used with --server" in capsys.readouterr().err
