"""The CLIP image encoder: original layout against a re-derivation of its forward pass, and the release's squash."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from fw_model.convert.layouts import clip_to_transformers
from fw_model.encoders.clip import MEAN, STD, ClipImageEncoder, clip_pixels

D, FF, LAYERS, HEADS, IMAGE, PATCH = 24, 48, 3, 4, 28, 14
TOKENS = (IMAGE // PATCH) ** 2 + 1


@pytest.fixture(scope="module")
def original_clip():
    """Random weights under the names and shapes of Wan's CLIP file, with a piece of its unused text tower."""
    g = torch.Generator().manual_seed(1)

    def weight(*shape):
        return torch.randn(*shape, generator=g) * shape[-1] ** -0.5

    state = {
        "log_scale": torch.tensor(2.6),
        "textual.token_embedding.weight": weight(7, 5),
        "visual.cls_embedding": weight(1, 1, D),
        "visual.pos_embedding": weight(1, TOKENS, D),
        "visual.patch_embedding.weight": weight(D, 3, PATCH, PATCH),
        "visual.head": weight(D, 8),
    }
    for name in ("pre_norm", "post_norm"):
        state |= {f"visual.{name}.weight": 1 + weight(D), f"visual.{name}.bias": weight(D)}
    for i in range(LAYERS):
        b = f"visual.transformer.{i}."
        for name, rows, columns in (("attn.to_qkv", 3 * D, D), ("attn.proj", D, D), ("mlp.0", FF, D), ("mlp.2", D, FF)):
            state |= {b + name + ".weight": weight(rows, columns), b + name + ".bias": weight(rows)}
        for name in ("norm1", "norm2"):
            state |= {b + name + ".weight": 1 + weight(D), b + name + ".bias": weight(D)}
    return state


def _reference(state, pixels):
    """Pre-norm ViT, all but the last block, from its description."""

    def norm(x, name):
        return functional.layer_norm(x, (D,), state[f"visual.{name}.weight"], state[f"visual.{name}.bias"], 1e-5)

    def linear(x, name):
        return x @ state[f"visual.{name}.weight"].T + state[f"visual.{name}.bias"]

    patches = functional.conv2d(pixels, state["visual.patch_embedding.weight"], stride=PATCH).flatten(2).mT
    x = torch.cat([state["visual.cls_embedding"].expand(len(pixels), 1, D), patches], dim=1)
    x = norm(x + state["visual.pos_embedding"], "pre_norm")
    for i in range(LAYERS - 1):
        b = f"transformer.{i}"
        q, k, v = linear(norm(x, f"{b}.norm1"), f"{b}.attn.to_qkv").chunk(3, dim=-1)
        heads = [t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in (q, k, v)]
        weights = (heads[0] @ heads[1].mT / (D // HEADS) ** 0.5).softmax(-1)
        x = x + linear((weights @ heads[2]).transpose(1, 2).flatten(2), f"{b}.attn.proj")
        x = x + linear(functional.gelu(linear(norm(x, f"{b}.norm2"), f"{b}.mlp.0")), f"{b}.mlp.2")
    return x


def _folder(tmp_path, state):
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "model.safetensors")
    sizes = {
        "hidden_size": D,
        "intermediate_size": FF,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "image_size": IMAGE,
        "patch_size": PATCH,
    }
    (tmp_path / "config.json").write_text(json.dumps(sizes))
    return tmp_path


def test_tokens_of_the_original_layout(tmp_path, original_clip):
    encoder = ClipImageEncoder(_folder(tmp_path, original_clip))
    image = torch.rand(2, 3, 40, 60, generator=torch.Generator().manual_seed(2)) * 2 - 1
    tokens = encoder.encode(image)
    assert tokens.shape == (2, TOKENS, D)
    expected = _reference(original_clip, clip_pixels(image, IMAGE))
    torch.testing.assert_close(tokens, expected, rtol=0, atol=1e-5)
    encoder.free()
    torch.testing.assert_close(encoder.encode(image), tokens)


def test_layout_is_strict(tmp_path, original_clip):
    renamed = clip_to_transformers(original_clip)
    assert clip_to_transformers(renamed).keys() == renamed.keys()
    assert not any("text" in key or "head" in key for key in renamed)
    with pytest.raises(ValueError, match="CLIP vision"):
        clip_to_transformers({"visual.unknown.weight": torch.zeros(1)})
    broken = {key: value for key, value in original_clip.items() if key != "visual.pre_norm.bias"}
    with pytest.raises(ValueError, match=r"pre_layrnorm\.bias"):
        ClipImageEncoder(_folder(tmp_path, broken)).encode(torch.zeros(1, 3, 8, 8))


def test_full_size_without_a_config(tmp_path):
    assert ClipImageEncoder(tmp_path).config["hidden_size"] == 1280


def test_images_are_squashed_without_antialiasing():
    # a fine checkerboard: an anti-aliased resize makes it flat gray, the release's does not
    y, x = torch.meshgrid(torch.arange(672), torch.arange(672), indexing="ij")
    board = ((x + y) % 2).float().mul(2).sub(1).expand(1, 3, -1, -1)
    pixels = clip_pixels(board, 224)
    assert pixels.shape == (1, 3, 224, 224)
    raw = pixels * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
    assert float(raw.std()) > 0.1
    # the whole image is there, its aspect is not kept
    ramp = torch.linspace(-1, 1, 300).view(1, 1, 1, 300).expand(1, 3, 100, 300)
    squashed = clip_pixels(ramp, 224)[0, 0, 100] * STD[0] + MEAN[0]
    assert float(squashed[0]) == pytest.approx(0, abs=0.01)
    assert float(squashed[-1]) == pytest.approx(1, abs=0.01)
