"""Inputs that are changed or have no effect are reported; inputs of the wrong type are refused before any work."""

import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fw_geometry import make_trajectory
from fw_model.autoencoders.block_dct import BlockDCT
from fw_model.config import tiny
from fw_model.encoders.hashing import HashTextEncoder
from fw_model.export.bundle import export_world
from fw_model.model.model import FantasyWorld
from fw_model.pipeline.inputs import check_types, prepare_image
from fw_model.pipeline.pipeline import WorldPipeline
from fw_model.pipeline.settings import WAN_NEGATIVE_PROMPT, GenerationSettings, Sampling

FRAMES, HEIGHT, WIDTH = 5, 32, 48


@pytest.fixture(scope="module")
def pipe() -> WorldPipeline:
    sampling = Sampling(num_frames=FRAMES, height=HEIGHT, width=WIDTH, num_inference_steps=1, guidance_scale=2.0)
    encoder = HashTextEncoder(text_len=16, text_dim=64)
    return WorldPipeline(FantasyWorld(tiny(), seed=0), BlockDCT(), encoder, sampling=sampling)


def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8))


def path(frames: int = FRAMES) -> Any:
    return make_trajectory("dolly", frames, width=WIDTH, height=HEIGHT)


def test_notes_of_a_long_prompt_and_a_long_path_reach_world_json(pipe: WorldPipeline, tmp_path: Path) -> None:
    words = " ".join(f"word{i}" for i in range(16))
    world = pipe(image(), f"{words} a red house", path(9), num_frames=FRAMES, negative_prompt=f"{words} blur")
    assert len(world.notes) == 3
    joined = "\n".join(world.notes)
    for part in ("9 poses", "19 words", "'a red house'", "17 words", "'blur'"):
        assert part in joined
    export_world(world, tmp_path, images=False)
    assert "a red house" in (tmp_path / "world.json").read_text(encoding="utf-8")
    assert pipe(image(), words, path()).notes == ()


def test_changes_to_the_image_are_noted(pipe: WorldPipeline, tmp_path: Path) -> None:
    clear = image().convert("RGBA")
    clear.putalpha(0)
    clear.save(tmp_path / "clear.png")
    notes: list[str] = []
    for source in (clear, tmp_path / "clear.png"):
        pixels = prepare_image(source, HEIGHT, WIDTH, "crop", notes)
        assert float(pixels.min()) == 1.0  # the white background
    assert len(notes) == 2
    assert all("transparent" in note for note in notes)
    turned = Image.fromarray(np.zeros((WIDTH, HEIGHT, 3), dtype=np.uint8))
    turned.getexif()[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=turned.getexif())
    with Image.open(tmp_path / "turned.jpg") as opened:
        world = pipe(opened, "", path())
    assert any("EXIF" in note for note in world.notes)


def test_given_notes_come_first_and_a_crop_is_noted(pipe: WorldPipeline) -> None:
    tall = Image.new("RGB", (WIDTH, 2 * HEIGHT))
    world = pipe(tall, "", path(), notes=["image: the first of 2 pages was taken"])
    assert world.notes == (
        "image: the first of 2 pages was taken",
        f"image: cropped to its middle 50 % for frames of {WIDTH}x{HEIGHT}",
    )
    assert pipe(tall, "", path(), fit="stretch").notes == ()
    notes: list[str] = []
    prepare_image(Image.new("RGB", (WIDTH + 1, HEIGHT)), HEIGHT, WIDTH, "crop", notes, "last_image")
    assert not notes  # 2 %
    with pytest.raises(ValueError, match="last_image"):
        prepare_image(np.zeros((4, 4, 4), np.uint8), HEIGHT, WIDTH, "crop", None, "last_image")


def test_wrong_types_are_refused_before_any_work(pipe: WorldPipeline) -> None:
    for prompt, trajectory, name in ((3, path(), "prompt"), ("a", [np.eye(4)], "trajectory")):
        with pytest.raises(TypeError, match=name):
            check_types(prompt, trajectory)
    source: Any = 3
    with pytest.raises(Exception, match="image"):  # TypeError; here the checker of the tests is first
        prepare_image(source, HEIGHT, WIDTH, "crop")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_frames", 5.0),
        ("num_inference_steps", "4"),
        ("num_inference_steps", True),
        ("guidance_scale", "5"),
        ("seed", None),
        ("seed", 1.5),
        ("cross_branch", 1),
        ("negative_prompt", ["blur"]),
        ("fit", None),
        ("scene_scale", True),
    ],
)
def test_settings_of_another_type_are_named(name: str, value: Any) -> None:
    settings = object.__new__(GenerationSettings)
    settings.__dict__.update({**GenerationSettings().__dict__, name: value})
    with pytest.raises(TypeError, match=name):
        settings.validate()


def test_numbers_that_are_not_finite_stop_at_their_step(pipe: WorldPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    forward, calls = FantasyWorld.forward, []

    def spoiled(self: FantasyWorld, *args: Any, **kwargs: Any) -> Any:
        out = forward(self, *args, **kwargs)
        calls.append(1)
        if len(calls) == 2:
            out.velocity[0, 0, 0, 0, 0] = float("nan")
        return out

    monkeypatch.setattr(FantasyWorld, "forward", spoiled)
    with pytest.raises(FloatingPointError, match=r"step 2 of 5.*float32"):
        pipe(image(), "", path(), num_inference_steps=5, guidance_scale=1.0)
    assert len(calls) == 2


def test_a_pipeline_describes_itself(pipe: WorldPipeline) -> None:
    text = repr(pipe)
    count = sum(p.numel() for p in pipe.world.parameters())
    for part in ("'tiny'", f"{count / 1e6:.1f}M", "float32", "cpu", "BlockDCT", "HashTextEncoder", "5 frames of 48x32"):
        assert part in text


def test_data_types_by_name_and_revisions(pipe: WorldPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pipe.save(tmp_path / "saved")
    half = WorldPipeline.from_pretrained(folder, dtype="bfloat16").world
    types_of = {name: parameter.dtype for name, parameter in half.named_parameters()}
    assert types_of["pcb.0.ffn.0.weight"] == torch.bfloat16
    assert types_of["geometry.depth_head.conv3.weight"] == torch.float32
    asked = []

    def download(repo: str, **options: Any) -> str:
        asked.append((repo, options["revision"]))
        return str(folder.parent)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    WorldPipeline.from_pretrained("hf://owner/name@v1/saved")
    FantasyWorld.from_pretrained("hf://owner/name/saved", revision="v2")
    assert asked == [("owner/name", "v1"), ("owner/name", "v2")]
    for wrong, hint in (("hf://owner", "hf://owner"), ("hf://owner/name/absent", "absent")):
        with pytest.raises(ValueError, match=hint):
            WorldPipeline.from_pretrained(wrong)
    with pytest.raises(ValueError, match=r"v1.*v2"):
        WorldPipeline.from_pretrained("hf://owner/name@v1", revision="v2")
    with pytest.raises(ValueError, match="small-world"):
        WorldPipeline.from_pretrained("small-world", revision="v2")


def test_a_pipeline_is_uploaded_whole(pipe: WorldPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, Any]] = []

    class Hub:
        def create_repo(self, repo: str, **options: Any) -> None:
            calls.append(("create_repo", (repo, options["private"])))

        def create_branch(self, repo: str, **options: Any) -> None:
            calls.append(("create_branch", (repo, options["branch"])))

        def upload_folder(self, **options: Any) -> Any:
            calls.append(("upload", (options["repo_id"], options["revision"])))
            calls.append(("files", {file.name for file in Path(options["folder_path"]).iterdir()}))
            return types.SimpleNamespace(commit_url="address")

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    assert pipe.push_to_hub("owner/name", private=True, revision="next") == "address"
    assert calls == [
        ("create_repo", ("owner/name", True)),
        ("create_branch", ("owner/name", "next")),
        ("upload", ("owner/name", "next")),
        ("files", {"config.json", "model.safetensors", "pipeline.json"}),
    ]
    assert pipe.world.push_to_hub("owner/name") == "address"
    assert calls[-1] == ("files", {"config.json", "model.safetensors"})
    with pytest.raises(ValueError, match="owner/name"):
        pipe.push_to_hub("name")


def test_the_text_encoder_can_stay_on_another_device(pipe: WorldPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    moves: list[str] = []
    monkeypatch.setattr(HashTextEncoder, "to", lambda self, device: (moves.append(str(device)), self)[1])
    kept = WorldPipeline(
        pipe.world, BlockDCT(), pipe.text_encoder, sampling=pipe.sampling, offload="model", text_device="cpu:0"
    )
    assert moves == ["cpu:0"]
    kept(image(), "a", path())
    assert moves == ["cpu:0"]  # no move for a generation
    assert "cpu:0" in repr(kept)


def test_the_negative_prompt_of_wan_is_available() -> None:
    assert WAN_NEGATIVE_PROMPT.startswith("色调艳丽，过曝")
    assert WAN_NEGATIVE_PROMPT.endswith("倒着走")
    assert len(WAN_NEGATIVE_PROMPT.split("，")) == 28
