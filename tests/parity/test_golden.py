"""The released code's numbers: a whole model and every building block, in float32."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.parity.golden import TARGET, check, main, relative_error
from tests.parity.golden_components import CHECKS
from tests.parity.golden_set import Recorder, set_config, stored_outputs

from fw_model.checkpoints.keys import released_names
from fw_model.model.model import FantasyWorld

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


def test_tool_reads_sets_of_the_wan22_kind(tmp_path):
    """No such set is stored here; one written by our own model passes, and fails once a weight of it is changed."""
    config = json.loads((GOLDEN / "setA" / "config.json").read_text())
    gone = ("clip_dim", "clip_len", "cam_last", "plucker_fea_dim", "plucker_downscale")
    tiny = {key: value for key, value in config["tiny"].items() if key not in gone}
    tiny |= {"variant": "wan22", "in_dim_control_adapter": 24}
    (tmp_path / "config.json").write_text(json.dumps({"tiny": tiny}))
    world = FantasyWorld(set_config(tiny), seed=4)
    inputs = load_file(GOLDEN / "setA" / "inputs.safetensors")
    g = torch.Generator().manual_seed(0)
    inputs["control_camera_latents_input"] = torch.randn(1, 24, 3, 32, 64, generator=g)
    del inputs["clip_feature"], inputs["plucker_embedding"]
    with torch.no_grad():
        for parameter in world.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=g))
        recorder = Recorder(world)
        adapter = world.video.control_adapter
        assert adapter is not None
        condition = world.encode_condition(
            context=inputs["context"], y=inputs["y"], control=adapter.prepare(inputs["control_camera_latents_input"])
        )
        out = world(inputs["latents"], inputs["timestep"], condition=condition)

    def write(name: str, tensors: Mapping[str, torch.Tensor]) -> None:
        save_file({key: value.detach().clone().contiguous() for key, value in tensors.items()}, tmp_path / name)

    weights = {theirs: world.get_parameter(ours) for theirs, ours in released_names(world).items()}
    write("weights.safetensors", weights)
    write("inputs.safetensors", inputs)
    write("outputs.safetensors", stored_outputs(out))
    write("intermediates.safetensors", recorder.finish(inputs["latents"]))
    assert "wan.control_adapter_out" in load_file(tmp_path / "intermediates.safetensors")
    assert main([str(tmp_path)]) == 0
    key = "pipe.dit.control_adapter.residual_blocks.0.conv2.weight"
    write("weights.safetensors", {**weights, key: weights[key] * 1.3})
    assert main([str(tmp_path)]) == 1


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
