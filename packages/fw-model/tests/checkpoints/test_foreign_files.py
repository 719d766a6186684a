"""Files as others write and download them: prefixes, EMA copies, git-lfs pointers, cut-off, quantized, fp8."""

import json
import logging
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from fw_model.checkpoints.checkpoint import load_video_backbone, load_world
from fw_model.checkpoints.keys import to_diffusers, to_wan
from fw_model.checkpoints.prefixes import plain_names, unwrap
from fw_model.checkpoints.sources import load_tensors, local_folder, stable_name
from fw_model.convert import convert_checkpoint
from fw_model.model.model import FantasyWorld


@pytest.fixture
def video(world):
    """The video branch under Wan's names."""
    return {
        to_wan(n, world.config.pcb_blocks): p.detach().clone()
        for n, p in world.named_parameters()
        if world.parameter_group(n) == "video"
    }


@pytest.fixture
def loads(world, micro):
    """Whether a file or folder gives exactly the weights of `world`'s video branch."""

    def check(source) -> None:
        fresh = FantasyWorld(micro, seed=5)
        load_video_backbone(fresh, source)
        for name, parameter in fresh.named_parameters():
            if fresh.parameter_group(name) == "video":
                assert torch.equal(parameter, world.get_parameter(name)), name

    return check


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.diffusion_model.", "diffusion_model.", "pipe.dit.", "module._orig_mod."]
)
def test_prefixes_are_removed_and_reported(prefix, video, loads, tmp_path, caplog):
    save_file({prefix + name: value for name, value in video.items()}, tmp_path / "wan.safetensors")
    with caplog.at_level(logging.WARNING):
        loads(tmp_path)
    assert prefix.split(".")[-2] in caplog.text
    assert str(tmp_path) in caplog.text


def test_wrappers_inside_names_and_other_parts_beside(video, loads, tmp_path, caplog):
    inside = {name.replace("blocks.1.", "blocks.1._orig_mod."): value for name, value in video.items()}
    save_file(inside, tmp_path / "compiled.safetensors")
    loads(tmp_path / "compiled.safetensors")
    whole = {f"model.diffusion_model.{name}": value for name, value in video.items()}
    whole |= {
        "first_stage_model.encoder.conv1.weight": torch.zeros(1),
        "text_encoders.t5.shared.weight": torch.zeros(1),
    }
    save_file(whole, tmp_path / "all_in_one.safetensors")
    loads(tmp_path / "all_in_one.safetensors")
    assert "left out 2 other tensors" in caplog.text


def test_released_names_keep_their_prefix():
    names = ["pipe.dit.blocks.0.ffn.0.weight", "IRGBlock.0.x_dit.ffn.0.weight", "vggt.projection_head.weight"]
    assert plain_names(names) == ({name: name for name in names}, ())
    wrapped, notes = plain_names(f"module.{name}" for name in names)
    assert sorted(wrapped.values()) == sorted(names)
    assert notes == ("removed the prefix 'module.'",)
    with pytest.raises(ValueError, match=r"a\.weight"):
        plain_names(["a.weight", "a._orig_mod.weight"])


def test_an_average_in_the_file_is_taken_or_named(video, loads, tmp_path, caplog):
    both = {name: value + 1 for name, value in video.items()} | {f"ema.{name}": v for name, v in video.items()}
    save_file(both, tmp_path / "both.safetensors")
    loads(tmp_path / "both.safetensors")
    assert f"took the EMA of the weights ('ema.'); {len(video)} other tensors were left out" in caplog.text
    caplog.clear()
    some = dict(video) | {"model_ema.decay": torch.ones(1), "model_ema.blocks0ffn0weight": torch.zeros(1)}
    save_file(some, tmp_path / "some.safetensors")
    loads(tmp_path / "some.safetensors")
    assert "left out 1 tensors of an incomplete EMA ('model_ema.')" in caplog.text


def test_wrapped_pickles_and_their_averages(video, loads, tmp_path):
    """A Wan transformer's .pth converts, whatever the training program put around it."""
    compiled = {f"_orig_mod.{name}": value for name, value in video.items()}
    torch.save(
        {"step": 7, "model": {name: value + 1 for name, value in compiled.items()}, "ema": compiled}, tmp_path / "a.pth"
    )
    done = convert_checkpoint(tmp_path / "a.pth", tmp_path / "a")
    assert done.kind == "a Wan video transformer in the original layout"
    assert done.files == ("diffusion_pytorch_model.safetensors",)
    assert done.notes[0] == "took the EMA of the weights ('ema'); 'model' was left out"
    assert "_orig_mod." in done.notes[1]
    loads(done.folder)
    assert unwrap({"model": {"x": 1}, "ema": [1, 2]}) == (
        {"x": 1},
        ["left out the EMA ('ema'), which has no parameter names"],
    )


def test_a_diffusers_transformer_in_a_pickle(world, loads, tmp_path):
    state = {
        to_diffusers(n, world.config.pcb_blocks): p.detach().clone()
        for n, p in world.named_parameters()
        if world.parameter_group(n) == "video"
    }
    torch.save(state, tmp_path / "diffusion_pytorch_model.bin")
    loads(convert_checkpoint(tmp_path / "diffusion_pytorch_model.bin", tmp_path / "out").folder)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 6673109\n"
HTML = b"<!DOCTYPE html><html><body>Please log in</body></html>"


@pytest.mark.parametrize(
    ("content", "named", "remedy"),
    [
        (POINTER, "git-lfs pointer", "git lfs pull"),
        (HTML, "web page", "download it again"),
        (b"GGUF\x03\x00\x00\x00" + bytes(64), "GGUF", "safetensors of the model"),
        (b"PK\x03\x04" + bytes(64), "pickle", "fw convert"),
        (b"", "empty", "download"),
        (struct.pack("<Q", 1000) + b'{"a": ', "header", "download it again"),
        (bytes(64), "64 bytes", "download it again"),
    ],
)
def test_other_files_are_refused_by_name(content, named, remedy, world, tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    for read in (lambda: load_video_backbone(world, tmp_path), lambda: load_tensors(file)):
        with pytest.raises(ValueError, match=named) as caught:
            read()
        assert str(file) in str(caught.value)
        assert remedy in str(caught.value)


def test_cut_off_files_say_how_much_is_there(world, tmp_path):
    world.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=rf"model\.safetensors.*{size - 1000}.*{size}"):
        FantasyWorld.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes(POINTER)
    with pytest.raises(ValueError, match=r"config\.json.*git-lfs"):
        FantasyWorld.from_pretrained(tmp_path)


def test_pointers_named_like_pickles(tmp_path):
    (tmp_path / "Wan2.1_VAE.pth").write_bytes(POINTER)
    with pytest.raises(ValueError, match="git-lfs"):
        convert_checkpoint(tmp_path / "Wan2.1_VAE.pth", tmp_path / "out")
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "wan-Q4_K_M.gguf").write_bytes(b"GGUF")
    with pytest.raises(ValueError, match="GGUF"):
        load_tensors_of(tmp_path / "only")


def load_tensors_of(folder):
    from fw_model.checkpoints.weights import WeightFolder

    return WeightFolder(folder)


@pytest.mark.parametrize("scale", ["scale_weight", "weight_scale", "weight_scale_inv"])
def test_quantized_weights_are_refused_by_name(scale, video, world, tmp_path):
    name = "blocks.0.self_attn.q"
    state = dict(video) | {f"{name}.weight": video[f"{name}.weight"].to(torch.float8_e4m3fn)}
    save_file({**state, f"{name}.{scale}": torch.ones(1)}, tmp_path / "scaled.safetensors")
    with pytest.raises(ValueError, match=rf"{name}\.{scale}.*bf16"):
        load_video_backbone(world, tmp_path)
    whole = dict(video) | {f"{name}.weight": torch.zeros(48, 24, dtype=torch.uint8)}
    save_file(whole, tmp_path / "scaled.safetensors")
    with pytest.raises(ValueError, match=r"self_attn\.q\.weight.*U8"):
        load_video_backbone(world, tmp_path)


def test_plain_fp8_is_loaded_as_bfloat16(world, micro, make_inputs, tmp_path, caplog):
    world.save_pretrained(tmp_path)
    state = {name: value.to(torch.float8_e4m3fn) for name, value in load_file(tmp_path / "model.safetensors").items()}
    save_file(state, tmp_path / "model.safetensors")
    loaded = load_world(tmp_path)
    assert f"{len(state)} tensors stored in fp8 were loaded as bfloat16" in caplog.text
    for name, parameter in loaded.named_parameters():
        assert torch.equal(parameter, state[name].to(torch.bfloat16).to(parameter.dtype))
        assert parameter.dtype == (torch.float32 if "_head." in name else torch.bfloat16)
    latents, timestep, inputs = make_inputs(micro)
    with torch.no_grad():
        assert torch.isfinite(loaded(latents, timestep, **inputs).velocity).all()
    assert next(load_world(tmp_path, dtype=torch.float32).parameters()).dtype == torch.float32


def test_a_missing_path_is_never_looked_up(tmp_path, monkeypatch):
    asked = []

    def download(name, **options):
        asked.append((name, options["revision"]))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for missing in ("runs/tiny", "./owner/name", "/owner/name", "a/b/c", "tiny", "weights/model.safetensors", "~/x"):
        with pytest.raises(ValueError, match="does not exist"):
            local_folder(missing)
    with pytest.raises(ValueError, match="does not exist"):
        local_folder(tmp_path / "owner")
    with pytest.raises(ValueError, match="main"):
        local_folder("runs", revision="main")
    assert not asked
    assert local_folder("owner/name", revision="v2") == tmp_path
    assert asked == [("owner/name", "v2")]


def test_a_failed_download_is_one_line(monkeypatch, tmp_path):
    def fail(name, **options):
        raise OSError("offline mode is enabled\nsecond line")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(ValueError, match=r"owner/name.*offline"):
        local_folder("owner/name")


def test_names_in_files_hold_in_every_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "encoder").mkdir()
    assert stable_name("encoder") == str((tmp_path / "encoder").resolve())
    assert stable_name("google/umt5-xxl") == "google/umt5-xxl"
    index = {"weight_map": {"x": "part.safetensors"}}
    (tmp_path / "a.index.json").write_text(json.dumps(index))
    save_file({"x": torch.ones(2)}, tmp_path / "part.safetensors")
    assert load_tensors(tmp_path / "a.index.json")["x"].tolist() == [1.0, 1.0]
