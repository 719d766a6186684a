"""Text encoders: determinism and padding, and the original UMT5 layout against a re-derivation of its forward pass."""

import json
import math

import pytest
import torch
from safetensors.torch import save_file

from fw_model.convert.layouts import umt5_to_transformers
from fw_model.encoders.base import TextEncoder, clean_prompt
from fw_model.encoders.hashing import HashTextEncoder
from fw_model.encoders.precomputed import PrecomputedText
from fw_model.encoders.registry import text_encoder_from_spec
from fw_model.encoders.umt5 import UMT5TextEncoder

SIZES = {"vocab_size": 40, "d_model": 24, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 3}
WORDS = ["a", "red", "kitchen", "walk", "through", "slowly"]


def test_prompts_are_cleaned_as_wan_does():
    assert clean_prompt("  A&amp;amp;B\n\tcafÃ©  ") == "A&B café"


def test_hash_encoder_is_fixed_for_all_time():
    pinned = [-0.4449399114, -0.4290726781, -1.1763660908, 0.3409786820, -0.4131336212, -0.2435147613]
    vector = HashTextEncoder(text_len=2, text_dim=6).encode(["tree"])[0, 0]
    assert vector.tolist() == pytest.approx(pinned, abs=1e-6)


def test_hash_encoder_words_and_padding():
    encoder = HashTextEncoder(text_len=5, text_dim=64)
    assert isinstance(encoder, TextEncoder)
    a = encoder.encode(["A red kitchen", "a RED   kitchen!", "a red kitchen", ""])
    assert a.shape == (4, 5, 64)
    torch.testing.assert_close(a[1], a[0])
    assert float(a[0, 3:].abs().max()) == 0
    assert float(a[3].abs().max()) == 0
    swapped = encoder.encode(["red a kitchen"])[0]
    assert not torch.equal(swapped[:2], a[0, :2].flip(0))  # the place of a word counts
    torch.testing.assert_close(encoder.encode(["a red kitchen and much more besides"])[0, :3], a[0, :3])


def test_words_beyond_the_length_are_reported():
    encoder = HashTextEncoder(text_len=3, text_dim=8)
    assert encoder.truncation("a red  kitchen") is None
    note = encoder.truncation("a red kitchen,  and much more")
    assert note is not None
    for part in ("6 words", "reads 3", "'and much more'"):
        assert part in note


def test_hash_vectors_are_standard_normal_and_apart():
    encoder = HashTextEncoder(text_len=1, text_dim=256)
    vectors = torch.stack([encoder._vector(f"word{i}") for i in range(200)]).double()
    assert float(vectors.mean()) == pytest.approx(0, abs=0.02)
    assert float(vectors.std()) == pytest.approx(1, abs=0.02)
    cosine = torch.corrcoef(vectors) - torch.eye(200, dtype=torch.float64)
    assert float(cosine.abs().max()) < 0.35


def test_precomputed_text_gives_back_what_was_written(tmp_path):
    encoder = HashTextEncoder(text_len=4, text_dim=8)
    PrecomputedText.write(tmp_path / "text.safetensors", encoder, ["a room", "", "a room"], dtype=torch.float32)
    stored = PrecomputedText(tmp_path / "text.safetensors")
    assert (stored.text_len, stored.text_dim) == (4, 8)
    torch.testing.assert_close(stored.encode(["", " a  room"]), encoder.encode(["", "a room"]))
    with pytest.raises(ValueError, match="a wood"):
        stored.encode(["a wood"])
    with pytest.raises(ValueError, match="write"):
        PrecomputedText(tmp_path / "none.safetensors")


def test_specs_bring_encoders_back(tmp_path):
    encoder = HashTextEncoder(text_len=4, text_dim=8)
    again = text_encoder_from_spec(encoder.spec(), tmp_path)
    torch.testing.assert_close(again.encode(["x y"]), encoder.encode(["x y"]))
    PrecomputedText.write(tmp_path / "text.safetensors", encoder, ["x"])
    moved = text_encoder_from_spec({"kind": "precomputed", "source": "text.safetensors"}, tmp_path)
    assert moved.text_dim == 8
    with pytest.raises(ValueError, match="hash, umt5"):
        text_encoder_from_spec({"kind": "bert"}, tmp_path)
    with pytest.raises(ValueError, match="umt5"):
        text_encoder_from_spec({"kind": "umt5", "source": "./umt5", "text_len": 512}, tmp_path)


@pytest.fixture(scope="module")
def original_umt5():
    """Random weights under the names and shapes of models_t5_umt5-xxl-enc-bf16.pth, at a tiny size."""
    g = torch.Generator().manual_seed(0)
    d, inner, ff, heads = 24, 24, 48, 3

    def weight(*shape):
        return torch.randn(*shape, generator=g) * shape[-1] ** -0.5

    state = {"token_embedding.weight": torch.randn(40, d, generator=g), "norm.weight": 1 + 0.1 * weight(d)}
    for i in range(2):
        b = f"blocks.{i}."
        state |= {b + f"attn.{n}.weight": weight(inner, d) for n in "qkv"}
        state |= {b + "attn.o.weight": weight(d, inner), b + "pos_embedding.embedding.weight": weight(32, heads)}
        state |= {b + f"norm{n}.weight": 1 + 0.1 * weight(d) for n in (1, 2)}
        state |= {b + "ffn.gate.0.weight": weight(ff, d), b + "ffn.fc1.weight": weight(ff, d)}
        state |= {b + "ffn.fc2.weight": weight(d, ff)}
    return state


def _reference_umt5(state, ids, heads=3):
    """T5 encoder with a relative bias in every layer, from its description (no padding)."""

    def norm(x, w):
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * w

    def bucket(distance):
        n = abs(distance)
        if n >= 8:
            n = min(8 + int(math.log(n / 8) / math.log(128 / 8) * 8), 15)
        return n + (16 if distance > 0 else 0)

    x = state["token_embedding.weight"][ids]
    length = len(ids)
    index = torch.tensor([[bucket(j - i) for j in range(length)] for i in range(length)])
    for i in range(2):
        w = {key.removeprefix(f"blocks.{i}."): value for key, value in state.items()}
        h = norm(x, w["norm1.weight"])
        q, k, v = ((h @ w[f"attn.{n}.weight"].T).view(length, heads, -1).transpose(0, 1) for n in "qkv")
        bias = w["pos_embedding.embedding.weight"][index].permute(2, 0, 1)
        mixed = (q @ k.transpose(1, 2) + bias).softmax(-1) @ v
        x = x + mixed.transpose(0, 1).reshape(length, -1) @ w["attn.o.weight"].T
        h = norm(x, w["norm2.weight"])
        gate = torch.nn.functional.gelu(h @ w["ffn.gate.0.weight"].T, approximate="tanh")
        x = x + ((h @ w["ffn.fc1.weight"].T) * gate) @ w["ffn.fc2.weight"].T
    return norm(x, state["norm.weight"])


def _folder(tmp_path, state):
    """A user's folder: weights, sizes and a tokenizer (words of a tiny vocabulary, </s> at the end)."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({**SIZES, "model_type": "umt5"}))
    vocabulary = {"<pad>": 0, "</s>": 1, "<unk>": 2, **{word: 3 + i for i, word in enumerate(WORDS)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **special}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    return tmp_path


def test_umt5_from_the_original_layout(tmp_path, original_umt5):
    encoder = UMT5TextEncoder(_folder(tmp_path, original_umt5), text_len=12, dtype=torch.float32)
    assert isinstance(encoder, TextEncoder)
    assert encoder.text_dim == 24
    out = encoder.encode(["a  red kitchen", "walk", "a red kitchen walk through slowly a a a a a a a a"])
    assert out.shape == (3, 12, 24)
    expected = _reference_umt5(original_umt5, [3, 4, 5, 1])
    torch.testing.assert_close(out[0, :4], expected, rtol=0, atol=5e-5)
    assert float(out[0, 4:].abs().max()) == 0
    torch.testing.assert_close(out[1, :2], _reference_umt5(original_umt5, [6, 1]), rtol=0, atol=5e-5)
    torch.testing.assert_close(
        out[2], _reference_umt5(original_umt5, [3, 4, 5, 6, 7, 8, 3, 3, 3, 3, 3, 1]), rtol=0, atol=5e-5
    )
    encoder.free()
    torch.testing.assert_close(encoder.encode(["walk"])[0], out[1])


def test_umt5_reports_tokens_beyond_the_length(tmp_path, original_umt5):
    encoder = UMT5TextEncoder(_folder(tmp_path, original_umt5), text_len=4, dtype=torch.float32)
    assert encoder.truncation("a red kitchen") is None  # three words and the end token
    note = encoder.truncation("a red kitchen walk through")
    assert note is not None
    for part in ("6 tokens", "reads 4", "'walk through'"):
        assert part in note
    cut, whole = encoder.encode(["a red kitchen walk through"]), encoder.encode(["a red kitchen"])
    torch.testing.assert_close(cut, whole)  # the part in the note has no effect


def test_umt5_stored_in_fp8_loads(tmp_path, original_umt5, caplog):
    state = {name: value.to(torch.float8_e4m3fn) for name, value in original_umt5.items()}
    encoder = UMT5TextEncoder(_folder(tmp_path, state), text_len=12, dtype=torch.float32)
    assert torch.isfinite(encoder.encode(["a red kitchen"])).all()
    assert f"{len(state)} tensors stored in fp8" in caplog.text


def test_umt5_long_distances_share_buckets(tmp_path, original_umt5):
    encoder = UMT5TextEncoder(_folder(tmp_path, original_umt5), text_len=160, dtype=torch.float32)
    out = encoder.encode([" ".join(["red"] * 150)])[0, :151]
    torch.testing.assert_close(out, _reference_umt5(original_umt5, [4] * 150 + [1]), rtol=0, atol=5e-5)


def test_umt5_layout_is_strict(tmp_path, original_umt5):
    renamed = umt5_to_transformers(original_umt5)
    again = umt5_to_transformers(renamed)
    assert again.keys() == renamed.keys()
    with pytest.raises(ValueError, match=r"blocks\.0\.odd"):
        umt5_to_transformers({"blocks.0.odd.weight": torch.zeros(1)})
    broken = dict(original_umt5)
    del broken["blocks.1.attn.q.weight"]
    encoder = UMT5TextEncoder(_folder(tmp_path, broken), dtype=torch.float32)
    with pytest.raises(ValueError, match=r"1 of .*SelfAttention\.q\.weight"):
        encoder.encode(["a"])


def test_umt5_without_tokenizer_says_so(tmp_path, original_umt5):
    save_file(original_umt5, tmp_path / "model.safetensors")
    encoder = UMT5TextEncoder(tmp_path)
    assert encoder.text_dim == 4096  # no config.json: Wan's own size
    with pytest.raises(ValueError, match="tokenizer"):
        encoder.encode(["a"])
