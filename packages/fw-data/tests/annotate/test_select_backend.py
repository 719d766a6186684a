"""`--geometry`: the backend of a run, its messages about weights and licenses, and contradictory options."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fw_data.annotate.config import AnnotateConfig
from fw_data.annotate.select_backend import select_backend
from fw_data.annotators.base import AnnotationRefused
from fw_data.annotators.checkpoints import WeightsMissing, fingerprint
from fw_data.annotators.dust3r.network import Dust3rConfig, Dust3rNetwork
from fw_data.annotators.dust3r.spec import Dust3rSpec, load
from fw_data.annotators.sfm.spec import SfmSpec
from fw_data.cli import main
from fw_data.options import AnnotateOptions


def order(**options: object) -> AnnotateOptions:
    return AnnotateOptions(raw=Path("raw"), out=Path("out"), **options)  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    sizes = Dust3rConfig(
        encoder_dim=16, encoder_depth=1, encoder_heads=1, decoder_dim=8, decoder_depth=1, decoder_heads=1, head="linear"
    )
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(Dust3rNetwork(sizes).state_dict(), path)
    return path


@pytest.fixture
def no_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No downloaded weights on this machine."""
    monkeypatch.setenv("FW_WEIGHTS_CACHE", str(tmp_path / "empty"))


@pytest.mark.usefixtures("no_networks")
def test_sfm_is_the_default_and_says_nothing() -> None:
    assert select_backend(order()) == (SfmSpec(second_matcher="none"), ())


def test_the_second_matcher_is_decided_once_for_all_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fw_data.annotators.sfm.matching.networks.are_cached", lambda _files: True)
    assert select_backend(order()).spec == SfmSpec(second_matcher="aliked")
    assert select_backend(order(second_matcher="none")).spec == SfmSpec(second_matcher="none")


@pytest.mark.usefixtures("no_networks")
def test_auto_says_which_and_why(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, messages = select_backend(order(geometry="auto"))
    assert spec == SfmSpec(second_matcher="none")
    assert "sfm" in messages[0]
    assert "DUSt3R" in messages[0]
    spec, messages = select_backend(order(geometry="auto", dust3r_weights=str(weights)))
    assert isinstance(spec, Dust3rSpec)
    assert spec.weights == weights
    assert "CC BY-NC-SA" in messages[0]
    monkeypatch.setattr("fw_data.annotators.checkpoints.cached", lambda _release: weights)
    spec, messages = select_backend(order(geometry="auto"))
    assert isinstance(spec, Dust3rSpec)
    assert "DUSt3R" in messages[0]


def test_dust3r_without_weights_says_where_they_are() -> None:
    with pytest.raises(ValueError, match=r"--dust3r-weights.*naver/DUSt3R.*CC BY-NC-SA"):
        select_backend(order(geometry="dust3r"))
    with pytest.raises(WeightsMissing, match="nowhere"):
        select_backend(order(geometry="dust3r", dust3r_weights="./nowhere"))


def test_depth_weights_come_with_their_license(weights: Path, tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "own.safetensors")
    chosen = select_backend(
        order(geometry="dust3r", dust3r_weights=str(weights), depth_weights=str(tmp_path / "own.safetensors"))
    )
    assert isinstance(chosen.spec, Dust3rSpec)
    assert chosen.spec.depth_weights == tmp_path / "own.safetensors"
    assert "own.safetensors" in chosen.messages[1]
    with pytest.raises(WeightsMissing, match=r"Depth-Anything-V2-Large-hf.*CC BY-NC 4\.0"):
        select_backend(order(geometry="dust3r", dust3r_weights=str(weights), depth_weights="large"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dust3r_weights": "x"}, "--dust3r-weights.*--geometry"),
        ({"geometry": "oracle", "depth_weights": "small"}, "--depth-weights.*--geometry"),
        ({"geometry": "auto", "depth_weights": "small"}, "weights"),
        ({"geometry": "dust3r", "truth": Path("t")}, "--truth.*--geometry oracle"),
    ],
)
def test_orders_that_make_no_sense(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select_backend(order(**options))


def test_the_fingerprint_follows_the_weights_not_their_place(weights: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere.safetensors"
    copy.write_bytes(weights.read_bytes())
    config = AnnotateConfig()
    same = config.fingerprint(Dust3rSpec(weights=copy))
    assert same == config.fingerprint(Dust3rSpec(weights=weights))
    copy.write_bytes(weights.read_bytes()[:-4] + b"\x00\x00\x80?")
    assert fingerprint(copy) != fingerprint(weights)
    assert config.fingerprint(Dust3rSpec(weights=copy)) != same
    assert config.flat(Dust3rSpec(weights=weights))["dust3r.alignment.focal"] == "shared"


def test_the_spec_makes_a_backend_that_runs(weights: Path) -> None:
    spec = Dust3rSpec(weights=weights, device="cpu")
    backend = load(spec)
    assert load(spec) is backend
    assert (backend.name, backend.version) == ("dust3r", spec.version)
    assert set(spec.score_meanings()) >= {"pairs_accepted", "along"}
    with pytest.raises(AnnotationRefused):
        backend.annotate(np.zeros((2, 64, 64, 3), np.uint8))


def test_the_command_says_what_it_uses_and_why_a_clip_was_refused(
    weights: Path, tmp_path: Path, make_video: Callable[..., Path], scene: Callable[..., dict], capsys
) -> None:
    make_video(tmp_path / "raw" / "a.mp4", scene(6)["video"])
    words = ["annotate", str(tmp_path / "raw"), str(tmp_path / "out"), "--geometry", "auto", "--workers", "0"]
    words += ["--min-motion", "0", "--dust3r-weights", str(weights), "--device", "cpu"]
    assert main(words) == 1  # random weights see no scene, so no clip is left
    messages = capsys.readouterr().out
    assert "geometry: dust3r (--dust3r-weights are given) with tiny.safetensors" in messages
    refusals = [json.loads(line) for line in (tmp_path / "out" / "refusals.jsonl").read_text().splitlines()]
    assert [(refusal["stage"], refusal["code"]) for refusal in refusals] == [("geometry", "pairs-disagree")]
