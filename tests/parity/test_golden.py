"""The released code's numbers: a whole model and every building block, in float32."""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tests.parity.golden import TARGET, check, main, relative_error
from tests.parity.golden_components import CHECKS

GOLDEN = Path(__file__).parent / "golden"
COMPONENTS = sorted(path.stem for path in (GOLDEN / "components").glob("*.safetensors"))


def test_set_a_forward_variants_and_gradients():
    results = list(check(GOLDEN / "setA"))
    missed = [(r.name, r.error) for r in results if r.error > (r.bound if r.name.startswith("gradients/") else TARGET)]
    assert not missed
    for kind in ("outputs", "intermediates", "variants"):
        stored = load_file(GOLDEN / "setA" / f"{kind}.safetensors")
        assert sum(r.name.startswith(f"{kind}/") for r in results) == len(stored)
    parameters = len(load_file(GOLDEN / "setA" / "weights.safetensors"))
    assert sum(r.name.startswith("gradients/") for r in results) == parameters + 2  # the loss, and the latents


@pytest.mark.parametrize("component", COMPONENTS)
def test_component(component):
    theirs = load_file(GOLDEN / "components" / f"{component}.safetensors")
    ours = CHECKS[component]({key: value.clone() for key, value in theirs.items()})
    errors = {name: relative_error(value, theirs[name]) for name, value in ours.items()}
    assert {name: error for name, error in errors.items() if not error <= TARGET} == {}
    inputs = ("weights", "in.", ".x", "grid_fhw", "positions_yx")
    unchecked = [key for key in theirs if key not in ours and not any(part in key for part in inputs)]
    assert unchecked == []


def test_tool_fails_on_a_wrong_number(tmp_path, capsys):
    tensors = load_file(GOLDEN / "components" / "cam_token_projector.safetensors")
    shutil.copy(GOLDEN / "components" / "config.json", tmp_path)
    save_file(tensors, tmp_path / "cam_token_projector.safetensors")
    assert main([str(tmp_path)]) == 0
    tensors["out.tokens"] = tensors["out.tokens"] * (1 + 1e-4)
    save_file(tensors, tmp_path / "cam_token_projector.safetensors")
    assert main([str(tmp_path)]) == 1
    assert "MISS" in capsys.readouterr().out


def test_tool_refuses_other_folders(tmp_path):
    with pytest.raises(ValueError, match=r"no config\.json"):
        main([str(tmp_path)])
    (tmp_path / "config.json").write_text("{}")
    save_file({"x": load_file(GOLDEN / "setA" / "inputs.safetensors")["y"]}, tmp_path / "nobody.safetensors")
    with pytest.raises(ValueError, match="no check for this component"):
        main([str(tmp_path)])
