"""The fw command: dispatch and errors, the doctor's answers, camera paths by name or file, and the demo's plan."""

import json
import socket
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fw_app import cli, demo, doctor, report
from fw_app.example_images import domain_note, resolve_image
from fw_app.generate import resolve_trajectory
from fw_app.options import DemoOptions
from fw_geometry import formats, make_trajectory


def test_no_command_is_wrong_usage_and_help_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown for name in cli.PROGRAM.commands)


def test_unknown_command_names_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["genrate"]) == 2
    error = capsys.readouterr().err
    assert "'genrate'" in error
    assert "generate" in error


def test_bad_input_is_one_line_without_traceback(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "black.png")
    words = [
        "generate",
        str(tmp_path / "black.png"),
        "--checkpoint",
        str(tmp_path / "absent"),
        "--out",
        str(tmp_path / "world"),
    ]
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("fw: error: ")
    assert "absent" in error
    assert "Traceback" not in error


def test_doctor_says_that_this_machine_can_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["doctor", "--json", "--out", str(tmp_path)]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["can_run"]
    names = {check["name"] for check in answer["checks"]}
    assert {"python", "torch", "attention", "memory", "disk", "XFeat + LighterGlue"} <= names


def test_doctor_covers_serving(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setattr(doctor, "SERVE_PORT", taken.getsockname()[1])
        monkeypatch.setattr(doctor, "SERVING_EXTRAS", {"no_such_module": ("postgres", "replicas")})
        monkeypatch.setattr(doctor, "MIN_OPEN_FILES", 1 << 40)
        checks = {check.name: check for check in doctor.run_checks(tmp_path)}
    assert checks["fw-serve"].status == "ok"
    assert "--port" in checks["port"].fix
    assert "fw-serve[postgres]" in checks["fw-serve[postgres]"].fix
    assert "ulimit" in checks["open files"].fix
    monkeypatch.setattr(doctor, "SERVING_MODULES", {"no_such_module": "no-such-package"})
    absent = {check.name: check for check in doctor.run_checks(tmp_path)}["fw-serve"]
    assert (absent.status, "no-such-package" in absent.found) == ("note", True)


def test_doctor_counts_a_missing_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "NEEDED_MODULES", {"no_such_module": "no-such-package"})
    missing = [check for check in doctor.run_checks(tmp_path) if check.status == "missing"]
    assert [check.name for check in missing] == ["no-such-package"]
    assert "make env" in missing[0].fix
    assert cli.main(["doctor", "--out", str(tmp_path)]) == 1


def test_doctor_refuses_a_full_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "MIN_FREE_DISK_GB", 1e9)
    disk = next(check for check in doctor.run_checks(tmp_path / "not" / "yet") if check.name == "disk")
    assert disk.status == "missing"


def test_presets_by_name_and_how_far() -> None:
    path = resolve_trajectory("pan", num_frames=5, height=64, width=96, angle_deg=20.0)
    assert len(path) == 5
    cosine = (np.trace(path.pose_c2w[-1, :3, :3]) - 1) / 2
    assert np.degrees(np.arccos(cosine)) == pytest.approx(20)
    assert resolve_trajectory("dolly", num_frames=5, height=64, width=96, distance=0.5).path_length() == pytest.approx(
        0.5
    )


def test_unknown_path_lists_the_presets() -> None:
    with pytest.raises(ValueError, match=r"orbitt.*dolly"):
        resolve_trajectory("orbitt", num_frames=5, height=64, width=96)


def test_cameras_of_every_kind_of_file(tmp_path: Path) -> None:
    path = make_trajectory("truck", 5, width=96, height=64)
    formats.write_camera_json(tmp_path / "cameras.json", path)
    formats.write_transforms_json(tmp_path / "transforms.json", path)
    formats.write_realestate10k(tmp_path / "cameras.txt", path)
    formats.write_colmap(tmp_path / "model", path)
    for name in ("cameras.json", "transforms.json", "cameras.txt", "model"):
        found = resolve_trajectory(str(tmp_path / name), num_frames=5, height=64, width=96)
        np.testing.assert_allclose(found.pose_c2w, path.pose_c2w, atol=1e-6)
        np.testing.assert_allclose(found.K, path.K, atol=1e-4)


def test_cameras_of_larger_images_are_fitted(tmp_path: Path) -> None:
    formats.write_transforms_json(tmp_path / "t.json", make_trajectory("still", 5, width=400, height=200))
    found = resolve_trajectory(str(tmp_path / "t.json"), num_frames=5, height=64, width=96)
    assert (found.width, found.height) == (96, 64)
    np.testing.assert_allclose(found.K[0, :2, 2], [48, 32])
    whole = make_trajectory("still", 5, width=400, height=200)
    assert found.K[0, 1, 1] == pytest.approx(whole.K[0, 1, 1] * 64 / 200)


def test_a_file_of_another_kind_and_a_shaped_file(tmp_path: Path) -> None:
    (tmp_path / "path.csv").write_text("1,2,3")
    with pytest.raises(ValueError, match=r"path\.csv"):
        resolve_trajectory(str(tmp_path / "path.csv"), num_frames=5, height=64, width=96)
    with pytest.raises(ValueError, match="--angle-deg"):
        resolve_trajectory(str(tmp_path / "path.csv"), num_frames=5, height=64, width=96, angle_deg=3.0)


def test_the_demo_skips_only_what_was_done_with_the_same_command(tmp_path: Path) -> None:
    steps = demo.plan(DemoOptions(out=tmp_path))
    record = tmp_path / "demo.json"
    assert demo.already_done(record, steps) == []
    rows = [asdict(replace(step, seconds=1.0)) for step in steps[:4]]
    record.write_text(json.dumps({"steps": rows}))
    assert [step.name for step in demo.already_done(record, steps)] == [step.name for step in steps[:4]]
    other = demo.plan(DemoOptions(out=tmp_path, seed=3))
    assert demo.already_done(record, other) == []


def test_every_command_of_the_demo_is_one_of_ours(tmp_path: Path) -> None:
    steps = demo.plan(DemoOptions(out=tmp_path))
    assert {step.command[0] for step in steps} == {"fw", "fw-data", "fw-train"}
    assert [step.command[1] for step in steps if step.command[0] == "fw-train"] == ["base", "stage1", "stage2"]


def test_the_demo_generates_with_the_shipped_weights_or_else_with_its_own(tmp_path, monkeypatch):
    options = DemoOptions(out=tmp_path)
    for shipped in (True, False):
        monkeypatch.setattr(demo, "has_shipped_weights", lambda found=shipped: found)
        steps = demo.plan(options)
        own = str(tmp_path / "runs" / "stage2" / "export")
        worlds = [step.command for step in steps if step.command[:2] == ("fw", "generate")]
        assert [own in command for command in worlds] == ([False] * 3 if shipped else [True])
        assert (steps[0].command in worlds) is shipped
        (tmp_path / "demo.json").write_text(json.dumps({"steps": [asdict(step) for step in steps]}))
        assert report.made_with(tmp_path) == (None if shipped else Path(own))
        assert ("model card" in report._head(report.made_with(tmp_path))) is shipped


def test_generate_without_a_checkpoint_says_what_is_missing(tmp_path, monkeypatch, capsys):
    from fw_model.checkpoints import shipped

    monkeypatch.setattr(shipped, "__file__", str(tmp_path / "checkpoints" / "shipped.py"))
    Image.fromarray(np.full((64, 96, 3), 128, np.uint8)).save(tmp_path / "gray.png")
    assert cli.main(["generate", str(tmp_path / "gray.png"), "--out", str(tmp_path / "world")]) == 2
    assert "small-world" in capsys.readouterr().err


def test_convert_says_what_the_file_was(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    import torch

    torch.save({"weight": torch.zeros(2)}, tmp_path / "strange.pth")
    assert cli.main(["convert", str(tmp_path / "strange.pth"), str(tmp_path / "out")]) == 2
    assert "strange.pth" in capsys.readouterr().err
    assert cli.main(["convert", str(tmp_path / "absent.pth"), str(tmp_path / "out")]) == 2
    assert "absent.pth" in capsys.readouterr().err


def test_generate_hands_its_options_to_the_pipeline(tmp_path, capsys):
    from fw_model.autoencoders.block_dct import BlockDCT
    from fw_model.config import tiny
    from fw_model.encoders.hashing import HashTextEncoder
    from fw_model.model.model import FantasyWorld
    from fw_model.pipeline.pipeline import WorldPipeline

    WorldPipeline(FantasyWorld(tiny(), seed=0), BlockDCT(), HashTextEncoder()).save(tmp_path / "checkpoint")
    Image.fromarray(np.full((40, 50, 3), 128, np.uint8)).save(tmp_path / "gray.png")
    words = ["generate", str(tmp_path / "gray.png"), "--checkpoint", str(tmp_path / "checkpoint")]
    words += [
        "--out",
        str(tmp_path / "world"),
        "--trajectory",
        "dolly",
        "--num-frames",
        "5",
        "--width",
        "32",
        "--height",
        "16",
    ]
    words += ["--num-inference-steps", "4", "--sampler", "unipc", "--scene-scale", "3", "--easycache", "0.2"]
    words += ["--dtype", "bfloat16", "--offload", "block", "--device", "cpu", "--prompt", "a gray room"]
    assert cli.main(words) == 0
    assert "world of 5 frames written" in capsys.readouterr().out
    summary = json.loads((tmp_path / "world" / "world.json").read_text())
    settings = summary["settings"]
    assert (settings["num_inference_steps"], settings["sampler"], settings["scene_scale"]) == (4, "unipc", 3.0)
    assert "reused_steps" in settings
    assert cli.main([*words, "--last-image", str(tmp_path / "gray.png")]) == 2
    assert "frame" in capsys.readouterr().err


def test_an_example_image_brings_its_prompt_and_unknown_ones_are_refused(tmp_path):
    path, prompt = resolve_image(Path("example:room-1"), "")
    assert path.is_file()
    assert "room" in prompt
    assert resolve_image(Path("example:room-1"), "a cellar")[1] == "a cellar"
    assert resolve_image(tmp_path / "a.png", "") == (tmp_path / "a.png", "")
    with pytest.raises(ValueError, match="room-0"):
        resolve_image(Path("example:room-0"), "")
    assert "rendered rooms" in domain_note("rendered rooms")
    assert "example:room-1" in domain_note("rendered rooms")
