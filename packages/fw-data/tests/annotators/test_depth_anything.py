"""Depth Anything: both layouts of its files give the network they were written for; sizes, licenses, errors.

The reference is the original architecture, written here from its description, in plain functions over original names.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as fn

from fw_data.annotators.checkpoints import WeightsMissing
from fw_data.annotators.depth.depth_anything import (
    RELEASES,
    DepthAnything,
    input_size,
    load_depth_anything,
)
from fw_data.annotators.depth.layouts import as_called, sizes_of, to_transformers

WIDTH, BLOCKS, HEADS, SIDE, NECK, FUSION, LAST = 128, 4, 2, 5, (6, 8, 10, 12), 8, 4


def original_state(seed: int = 0) -> dict[str, Tensor]:
    """Random weights under the original names."""
    g = torch.Generator().manual_seed(seed)

    def linear(name: str, out: int, into: int, *kernel: int) -> dict[str, Tensor]:
        fan = into * int(np.prod(kernel or (1,)))
        weight = torch.randn(out, into, *kernel, generator=g) / fan**0.5
        return {f"{name}.weight": weight, f"{name}.bias": 0.1 * torch.randn(out, generator=g)}

    def norm(name: str) -> dict[str, Tensor]:
        return {
            f"{name}.weight": 1 + 0.1 * torch.randn(WIDTH, generator=g),
            f"{name}.bias": 0.1 * torch.randn(WIDTH, generator=g),
        }

    state = {
        "pretrained.cls_token": torch.randn(1, 1, WIDTH, generator=g),
        "pretrained.pos_embed": torch.randn(1, 1 + SIDE * SIDE, WIDTH, generator=g),
        "pretrained.mask_token": torch.zeros(1, WIDTH),
        **linear("pretrained.patch_embed.proj", WIDTH, 3, 14, 14),
        **norm("pretrained.norm"),
    }
    for index in range(BLOCKS):
        block = f"pretrained.blocks.{index}"
        state |= norm(f"{block}.norm1") | norm(f"{block}.norm2")
        state |= linear(f"{block}.attn.qkv", 3 * WIDTH, WIDTH) | linear(f"{block}.attn.proj", WIDTH, WIDTH)
        state |= linear(f"{block}.mlp.fc1", 4 * WIDTH, WIDTH) | linear(f"{block}.mlp.fc2", WIDTH, 4 * WIDTH)
        state |= {f"{block}.ls{k}.gamma": 1 + 0.1 * torch.randn(WIDTH, generator=g) for k in (1, 2)}
    for level, dim in enumerate(NECK):
        state |= linear(f"depth_head.projects.{level}", dim, WIDTH, 1, 1)
        name = f"depth_head.scratch.layer{level + 1}_rn"
        state[f"{name}.weight"] = linear(name, FUSION, dim, 3, 3)[f"{name}.weight"]
        refine = f"depth_head.scratch.refinenet{level + 1}"
        state |= linear(f"{refine}.out_conv", FUSION, FUSION, 1, 1)
        for unit in (1, 2):
            for conv in (1, 2):
                state |= linear(f"{refine}.resConfUnit{unit}.conv{conv}", FUSION, FUSION, 3, 3)
    state |= linear("depth_head.resize_layers.0", NECK[0], NECK[0], 4, 4)
    state |= linear("depth_head.resize_layers.1", NECK[1], NECK[1], 2, 2)
    state |= linear("depth_head.resize_layers.3", NECK[3], NECK[3], 3, 3)
    state |= linear("depth_head.scratch.output_conv1", FUSION // 2, FUSION, 3, 3)
    state |= linear("depth_head.scratch.output_conv2.0", LAST, FUSION // 2, 3, 3)
    state |= linear("depth_head.scratch.output_conv2.2", 1, LAST, 1, 1)
    state["depth_head.scratch.output_conv2.2.bias"] += 2
    return state


def reference(state: dict[str, Tensor], image: Tensor) -> Tensor:
    """Disparity (b, h, w) of normalized images by the original architecture."""

    def part(name: str) -> tuple[Tensor, Tensor]:
        return state[f"{name}.weight"], state[f"{name}.bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        return fn.layer_norm(x, (WIDTH,), *part(name), eps=1e-6)

    rows, columns = image.shape[2] // 14, image.shape[3] // 14
    x = fn.conv2d(image, *part("pretrained.patch_embed.proj"), stride=14).flatten(2).mT
    x = torch.cat([state["pretrained.cls_token"].expand(len(x), -1, -1), x], dim=1)
    table = state["pretrained.pos_embed"]
    if (rows, columns) != (SIDE, SIDE):
        square = table[:, 1:].mT.unflatten(-1, (SIDE, SIDE))
        square = fn.interpolate(square, (rows, columns), mode="bicubic")
        table = torch.cat([table[:, :1], square.flatten(2).mT], dim=1)
    x = x + table
    levels = []
    for index in range(BLOCKS):
        block = f"pretrained.blocks.{index}"
        q, k, v = (
            part_.unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for part_ in fn.linear(norm(x, f"{block}.norm1"), *part(f"{block}.attn.qkv")).chunk(3, dim=-1)
        )
        mixed = ((q @ k.mT) / (WIDTH // HEADS) ** 0.5).softmax(-1) @ v
        x = x + state[f"{block}.ls1.gamma"] * fn.linear(mixed.transpose(1, 2).flatten(2), *part(f"{block}.attn.proj"))
        hidden = fn.gelu(fn.linear(norm(x, f"{block}.norm2"), *part(f"{block}.mlp.fc1")))
        x = x + state[f"{block}.ls2.gamma"] * fn.linear(hidden, *part(f"{block}.mlp.fc2"))
        tokens = norm(x, "pretrained.norm")[:, 1:].mT.unflatten(-1, (rows, columns))
        levels.append(fn.conv2d(tokens, *part(f"depth_head.projects.{index}")))
    levels[0] = fn.conv_transpose2d(levels[0], *part("depth_head.resize_layers.0"), stride=4)
    levels[1] = fn.conv_transpose2d(levels[1], *part("depth_head.resize_layers.1"), stride=2)
    levels[3] = fn.conv2d(levels[3], *part("depth_head.resize_layers.3"), stride=2, padding=1)
    skips = [
        fn.conv2d(level, state[f"depth_head.scratch.layer{index}_rn.weight"], padding=1)
        for index, level in enumerate(levels, start=1)
    ]

    def unit(x: Tensor, name: str) -> Tensor:
        inner = fn.conv2d(fn.relu(x), *part(f"{name}.conv1"), padding=1)
        return x + fn.conv2d(fn.relu(inner), *part(f"{name}.conv2"), padding=1)

    path = None
    for index in (4, 3, 2, 1):
        refine = f"depth_head.scratch.refinenet{index}"
        x = skips[index - 1] if path is None else path + unit(skips[index - 1], f"{refine}.resConfUnit1")
        x = unit(x, f"{refine}.resConfUnit2")
        size = skips[index - 2].shape[2:] if index > 1 else (2 * x.shape[2], 2 * x.shape[3])
        x = fn.interpolate(x, size, mode="bilinear", align_corners=True)
        path = fn.conv2d(x, *part(f"{refine}.out_conv"))
    assert path is not None
    out = fn.conv2d(path, *part("depth_head.scratch.output_conv1"), padding=1)
    out = fn.interpolate(out, (14 * rows, 14 * columns), mode="bilinear", align_corners=True)
    out = fn.relu(fn.conv2d(out, *part("depth_head.scratch.output_conv2.0"), padding=1))
    return fn.relu(fn.conv2d(out, *part("depth_head.scratch.output_conv2.2")))[:, 0]


@pytest.fixture(scope="module")
def original_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("depth") / "depth_anything_v2_vits.safetensors"
    save_file(original_state(), path)
    return path


@pytest.fixture(scope="module")
def network(original_file: Path) -> DepthAnything:
    return load_depth_anything(original_file)


@pytest.mark.parametrize("size", [(70, 70), (56, 98), (98, 42)])
def test_an_original_file_gives_the_original_network(network: DepthAnything, size: tuple[int, int]) -> None:
    image = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(3))
    wanted = reference(original_state(), image)
    assert wanted.std() > 0.05 * wanted.mean() > 0
    with torch.no_grad():
        found = network.model(pixel_values=image).predicted_depth
    assert (found - wanted).abs().max() <= 2e-5 * wanted.abs().max()


def test_both_layouts_are_the_same_network(network: DepthAnything, tmp_path: Path) -> None:
    converted = to_transformers(original_state())
    assert "backbone.encoder.layer.0.attention.attention.query.weight" in converted  # as the published files have it
    assert to_transformers(converted) == converted
    assert set(as_called(converted, set(network.model.state_dict()))) == set(network.model.state_dict())
    save_file(converted, tmp_path / "model.safetensors")
    again = load_depth_anything(tmp_path)
    frames = np.random.default_rng(0).integers(0, 256, (3, 40, 60, 3), dtype=np.uint8)
    np.testing.assert_array_equal(again.disparity(frames), network.disparity(frames))


def test_disparity_is_at_frame_size_and_frames_are_independent(network: DepthAnything) -> None:
    frames = np.random.default_rng(1).integers(0, 256, (5, 40, 60, 3), dtype=np.uint8)
    parts: list[float] = []
    together = network.disparity(frames, on_done=parts.append)
    assert together.shape == (5, 40, 60)
    assert together.dtype == np.float32
    assert parts[-1] == 1.0
    alone = np.concatenate([network.disparity(frame[None]) for frame in frames])
    np.testing.assert_allclose(together, alone, rtol=2e-4, atol=2e-5)


def test_metric_networks_give_inverse_meters(original_file: Path) -> None:
    metric = load_depth_anything(original_file, release="metric-indoor-small")
    disparity = metric.disparity(np.full((1, 28, 28, 3), 90, np.uint8))
    assert metric.metric
    assert (disparity >= 1 / 20 * (1 - 1e-6)).all()  # no depth beyond the 20 m of indoor networks


@pytest.mark.parametrize(
    ("frame", "native", "full"),
    [
        ((336, 592), (336, 588), (518, 910)),
        ((480, 640), (476, 644), (518, 686)),
        ((1080, 1920), (518, 924), (518, 924)),
    ],
)
def test_input_sizes(frame: tuple[int, int], native: tuple[int, int], full: tuple[int, int]) -> None:
    sizes = [input_size(frame[0], frame[1], "native"), input_size(frame[0], frame[1], "full")]
    assert [(size.height, size.width) for size in sizes] == [native, full]


def test_only_small_networks_are_open() -> None:
    assert {name for name, release in RELEASES.items() if release.permissive} == {
        "small",
        "metric-indoor-small",
        "metric-outdoor-small",
    }
    assert all(("NC" in release.license) != release.permissive for release in RELEASES.values())
    assert RELEASES["metric-outdoor-large"].hub_id == "depth-anything/Depth-Anything-V2-Metric-Outdoor-Large-hf"


def test_missing_and_wrong_weights_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match=r"Depth-Anything-V2-Base-hf.*CC BY-NC 4\.0"):
        load_depth_anything(tmp_path / "nowhere", release="base")
    with pytest.raises(WeightsMissing, match=r"Apache-2\.0"):
        load_depth_anything()
    (tmp_path / "depth.pth").write_bytes(b"x")
    with pytest.raises(WeightsMissing, match="pickle"):
        load_depth_anything(tmp_path / "depth.pth")
    with pytest.raises(WeightsMissing, match="0 safetensors"):
        load_depth_anything(tmp_path)
    with pytest.raises(ValueError, match="small"):
        load_depth_anything(release="giant")
    state = original_state()
    del state["pretrained.blocks.1.ls1.gamma"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(WeightsMissing, match=r"layer_scale1\.lambda1"):
        load_depth_anything(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"short")
    with pytest.raises(WeightsMissing, match="safetensors"):
        load_depth_anything(tmp_path)
    with pytest.raises(ValueError, match="Depth Anything V2"):
        to_transformers({"depth_head.new.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="Depth Anything V2"):
        sizes_of({"x": (1,)})
