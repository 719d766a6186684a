"""`fw-train init` from a small model that lies as a downloaded Wan folder does, and both stages from what it writes."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fw_data.dataset.clip_order import ClipSampler
from fw_model.autoencoders.wan_vae import WanVAE
from fw_model.checkpoints.checkpoint import load_world
from fw_model.checkpoints.keys import to_diffusers, to_wan
from fw_model.config import WorldConfig
from fw_model.model.model import FantasyWorld
from fw_train.config.schema import ClipConfig, ConfigError, DropoutConfig, TrainConfig
from fw_train.engine.checkpoint import CheckpointStore
from fw_train.engine.distributed import Context
from fw_train.init_from_wan import InitOptions, init
from fw_train.model_bundle import load_bundle
from fw_train.tasks.train import prepare, train
from fw_train.tasks.world_task import WorldTask

D, PATCH, IMAGE = 16, 14, 224
CLIP_SIZES = {
    "hidden_size": D,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": IMAGE,
    "patch_size": PATCH,
}
T5_SIZES = {"vocab_size": 40, "d_model": 12, "d_kv": 4, "d_ff": 24, "num_layers": 1, "num_heads": 3}


@pytest.fixture(scope="module")
def clip_world(mini: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, WorldConfig]:
    """The mini world with an image branch, as a config file."""
    config = WorldConfig.from_json(mini.read_text())
    config = dataclasses.replace(config, name="mini_clip", video=dataclasses.replace(config.video, clip_dim=D))
    path = tmp_path_factory.mktemp("clip_world") / "mini_clip.json"
    path.write_text(config.to_json())
    return path, config


@pytest.fixture(scope="module")
def wan(clip_world, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Transformer in the original layout, text and image encoders as pickles, the VAE in diffusers' layout."""
    _, config = clip_world
    folder = tmp_path_factory.mktemp("wan")
    world = FantasyWorld(config, seed=3)
    video = [(n, p) for n, p in world.named_parameters() if world.parameter_group(n) == "video"]
    save_file(
        {to_wan(n, config.pcb_blocks): p.detach().contiguous() for n, p in video},
        folder / "diffusion_pytorch_model.safetensors",
    )
    WanVAE.small(seed=1, base_dim=4).save(folder)
    torch.save(_t5(), folder / "models_t5_umt5-xxl-enc-bf16.pth")
    torch.save(_clip(), folder / "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth")
    _write_tokenizer(folder / "google" / "umt5-xxl")
    return folder


@pytest.fixture(scope="module")
def start(wan, clip_world, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `init` makes of the folder; moved, because nothing in it may point to where it was made."""
    root = tmp_path_factory.mktemp("start")
    lines = init(InitOptions(model=str(clip_world[0]), wan=wan, out=root / "made", seed=5))
    assert "original layout" in lines[0]
    assert "new, seed 5" in lines[1]
    folder = (root / "made").rename(root / "moved")
    # the encoders here are smaller than Wan's, so their sizes have to be said
    (folder / "text_encoder" / "config.json").write_text(json.dumps(T5_SIZES))
    (folder / "image_encoder" / "config.json").write_text(json.dumps(CLIP_SIZES))
    return folder


@pytest.fixture
def run(start, clip_world, dataset, tmp_path) -> TrainConfig:
    return TrainConfig(
        stage="stage1",
        model=str(clip_world[0]),
        data=dataset,
        out=tmp_path / "one",
        init=start,
        steps=1,
        batch=2,
        clip=ClipConfig(frames=5, height=32, width=32, held_out=0.2, validate_on=1),
    )


def test_video_weights_are_wans_and_the_rest_is_new(start, clip_world):
    made, given = load_world(start), dict(FantasyWorld(clip_world[1], seed=3).named_parameters())
    fresh = dict(FantasyWorld(clip_world[1], seed=5).named_parameters())
    for name, parameter in made.named_parameters():
        expected = given if made.parameter_group(name) == "video" else fresh
        assert torch.equal(parameter, expected[name]), name


def test_both_stages_train_from_it(start, run, tmp_path):
    first = train(run, quiet=True).export
    second = train(dataclasses.replace(run, stage="stage2", out=tmp_path / "two", init=first), quiet=True).export
    assert second is not None
    bundle = load_bundle(dataclasses.replace(run, stage="stage2", init=second))
    assert [entry["stage"] for entry in bundle.history] == ["stage1", "stage2"]
    given = dict(load_world(start).named_parameters())
    for name, parameter in bundle.world.named_parameters():
        if bundle.world.parameter_group(name) == "video":
            assert torch.equal(parameter, given[name]), name


def test_image_tokens_reach_the_loss(run, tmp_path):
    context = Context(store=CheckpointStore(tmp_path / "store"), device=torch.device("cpu"))
    losses = []
    for chance in (0.0, 1.0):  # without and with every image dropped
        task = prepare(dataclasses.replace(run, dropout=DropoutConfig(text=0.0, image=chance)), context).task
        assert isinstance(task, WorldTask)
        tokens = task.bundle.encode(torch.rand(1, 3, 5, 32, 32)).image_tokens
        assert tokens is not None
        assert tokens.shape == (1, 1 + (IMAGE // PATCH) ** 2, D)
        draws = ClipSampler(clips=task.order.clips, batch=2, seed=0).step(0, 0, 1)
        losses.append(float(task.loss(0, draws)["loss"].detach()))
    assert losses[0] != losses[1]


def test_what_is_missing_is_named(wan, clip_world, tmp_path):
    path, _ = clip_world
    with pytest.raises(ConfigError, match="none"):
        init(InitOptions(model=str(path), wan=tmp_path / "none", out=tmp_path / "out"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"transformer, diffusion_pytorch_model\.safetensors"):
        init(InitOptions(model=str(path), wan=tmp_path / "empty", out=tmp_path / "out"))
    with pytest.raises(ConfigError, match="exists"):
        init(InitOptions(model=str(path), wan=wan, out=tmp_path / "empty"))
    with pytest.raises(ConfigError, match="preset"):
        init(InitOptions(model="wan", wan=wan, out=tmp_path / "out"))
    with pytest.raises(ConfigError, match="'tiny'"):
        init(InitOptions(model="tiny", wan=wan, out=tmp_path / "out"))
    assert not list(tmp_path.glob(".out*"))


def test_a_relative_folder_loads_from_anywhere(wan, clip_world, tmp_path, monkeypatch):
    from fw_model.pipeline.components import load_components

    (tmp_path / "here").mkdir()
    (tmp_path / "elsewhere").mkdir()
    shutil.copytree(wan, tmp_path / "here" / "wan")
    monkeypatch.chdir(tmp_path / "here")
    init(InitOptions(model=str(clip_world[0]), wan=Path("wan"), out=Path("made")))
    spec = json.loads(Path("made/pipeline.json").read_text())
    assert spec["text_encoder"]["source"] == "text_encoder"
    assert spec["image_encoder"]["source"] == "image_encoder"
    for name, sizes in (("text_encoder", T5_SIZES), ("image_encoder", CLIP_SIZES)):
        (tmp_path / "here" / "made" / name / "config.json").write_text(json.dumps(sizes))
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load_components(Path("../here/made")).text_encoder.text_len == clip_world[1].video.text_len


@pytest.mark.parametrize(
    ("rename", "low", "high"),
    [(to_wan, "low_noise_model", "high_noise_model"), (to_diffusers, "transformer_2", "transformer")],
)
def test_layouts_of_wan22(wan, clip_world, tmp_path, rename, low, high):
    """Two experts in two folders: the one of the config's timesteps is taken."""
    source = tmp_path / "wan22"
    shutil.copytree(wan, source)
    (source / "diffusion_pytorch_model.safetensors").unlink()
    world = FantasyWorld(clip_world[1], seed=4)
    video = {n: p.detach() for n, p in world.named_parameters() if world.parameter_group(n) == "video"}
    experts = {low: ((0.0, 900.0), 0.0), high: ((900.0, 1000.0), 1.0)}
    for folder, (_, added) in experts.items():
        (source / folder).mkdir()
        state = {rename(name, clip_world[1].pcb_blocks): value + added for name, value in video.items()}
        save_file(state, source / folder / "diffusion_pytorch_model.safetensors")
    for folder, (limits, added) in experts.items():
        config = dataclasses.replace(clip_world[1], name="expert", timestep_range=limits)
        (tmp_path / "expert.json").write_text(config.to_json())
        lines = init(InitOptions(model=str(tmp_path / "expert.json"), wan=source, out=tmp_path / folder))
        assert folder in lines[0]
        weight = "pcb.0.self_attn.q.weight"
        assert torch.equal(load_world(tmp_path / folder).get_parameter(weight), video[weight] + added)


def _t5() -> dict[str, torch.Tensor]:
    """Random weights under the names of Wan's text encoder."""
    g = torch.Generator().manual_seed(0)
    d, inner, ff, heads = (T5_SIZES[k] for k in ("d_model", "d_model", "d_ff", "num_heads"))

    def weight(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g) * shape[-1] ** -0.5

    block = {
        "norm1.weight": torch.ones(d),
        "norm2.weight": torch.ones(d),
        "pos_embedding.embedding.weight": weight(32, heads),
        "ffn.gate.0.weight": weight(ff, d),
        "ffn.fc1.weight": weight(ff, d),
        "ffn.fc2.weight": weight(d, ff),
        **{f"attn.{n}.weight": weight(inner, d) for n in "qkv"},
        "attn.o.weight": weight(d, inner),
    }
    return {
        "token_embedding.weight": weight(T5_SIZES["vocab_size"], d),
        "norm.weight": torch.ones(d),
        **{f"blocks.0.{name}": value for name, value in block.items()},
    }


def _clip() -> dict[str, torch.Tensor]:
    """Random weights under the names of Wan's image encoder."""
    g = torch.Generator().manual_seed(1)
    ff = CLIP_SIZES["intermediate_size"]

    def weight(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g) * shape[-1] ** -0.5

    state = {
        "visual.cls_embedding": weight(1, 1, D),
        "visual.pos_embedding": weight(1, 1 + (IMAGE // PATCH) ** 2, D),
        "visual.patch_embedding.weight": weight(D, 3, PATCH, PATCH),
        "visual.head": weight(D, 8),
    }
    for name in ("pre_norm", "post_norm"):
        state |= {f"visual.{name}.weight": torch.ones(D), f"visual.{name}.bias": torch.zeros(D)}
    for i in range(CLIP_SIZES["num_hidden_layers"]):
        b = f"visual.transformer.{i}."
        for name, rows, columns in (("attn.to_qkv", 3 * D, D), ("attn.proj", D, D), ("mlp.0", ff, D), ("mlp.2", D, ff)):
            state |= {b + name + ".weight": weight(rows, columns), b + name + ".bias": torch.zeros(rows)}
        for name in ("norm1", "norm2"):
            state |= {b + name + ".weight": torch.ones(D), b + name + ".bias": torch.zeros(D)}
    return state


def _write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    folder.mkdir(parents=True)
    words = ["<pad>", "</s>", "<unk>", "a", "striped", "wall", "number"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
