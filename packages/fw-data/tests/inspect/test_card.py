"""The page about a dataset, and the JSON schema: complete, and what files really hold."""

import json
import shutil
from pathlib import Path

import jsonschema
import pytest

from fw_data import ClipDataset
from fw_data.cli import main
from fw_data.inspect.schema_json import dataset_schema, schema_text

COMMITTED = Path(__file__).resolve().parents[2] / "dataset.schema.json"


@pytest.fixture
def dataset(shared_dataset, tmp_path) -> Path:
    shutil.copytree(shared_dataset[0], tmp_path / "set", ignore=shutil.ignore_patterns(".work"))
    return tmp_path / "set"


def test_a_page_names_what_is_missing_and_keeps_what_it_was_told(dataset, capsys):
    assert main(["card", str(dataset)]) == 1
    output = capsys.readouterr().out
    assert "missing: the description" in output
    assert "license of 2 sources, first a.mp4" in output
    order = ["card", str(dataset), "--title", "Planes", "--description", "Slanted planes.", "--license", "*=CC0-1.0"]
    assert main([*order, "sub/*=CC-BY-4.0 by Ann | Bob"]) == 0
    assert main(["card", str(dataset)]) == 0  # about.json remembers
    page = (dataset / "README.md").read_text()
    assert page.startswith("# Planes\n\nSlanted planes.\n")
    assert "| CC0-1.0 | 1 |" in page
    assert "| CC-BY-4.0 by Ann \\| Bob | 1 |" in page
    assert "| frames | 26 |" in page
    assert "2 clips are metric" in page
    card = json.loads((dataset / "dataset.json").read_text())
    scores = ClipDataset(dataset).records[0].scores
    for words in (*card["conventions"].values(), *scores, "Nothing was left out", card["config_hash"]):
        assert words.replace("|", "\\|") in page
    tables = [line for line in page.splitlines() if line.startswith("|")]
    assert len(tables) > 40
    assert main(["validate", str(dataset), "--quick"]) == 0
    assert main(["card", str(dataset), "--license", "CC0"]) == 2
    assert "PATTERN=TEXT" in capsys.readouterr().err
    (dataset / "about.json").write_text('{"description": "d", "licences": {"*": "MIT"}}')  # the former key
    assert main(["card", str(dataset)]) == 0
    assert "| MIT | 2 |" in (dataset / "README.md").read_text()
    (dataset / "about.json").write_text('{"titel": "x"}')
    assert main(["card", str(dataset)]) == 2
    assert "titel" in capsys.readouterr().err


def test_the_committed_schema_is_current(capsys, tmp_path):
    assert COMMITTED.read_text() == schema_text(), f"run: fw-data schema --out {COMMITTED.name}, in packages/fw-data"
    assert main(["schema"]) == 0
    assert capsys.readouterr().out == schema_text()
    assert main(["schema", "--out", str(tmp_path / "s.json")]) == 0
    assert (tmp_path / "s.json").read_text() == schema_text()


def test_files_of_a_dataset_follow_the_schema(dataset):
    def check(kind: str, value: object) -> None:
        jsonschema.Draft202012Validator({**dataset_schema(), "$ref": f"#/$defs/{kind}"}).validate(value)

    main(["card", str(dataset)])
    check("DatasetCard", json.loads((dataset / "dataset.json").read_text()))
    check("About", json.loads((dataset / "about.json").read_text()))
    inside = json.loads(ClipDataset(dataset).read(0, "json"))
    check("ClipRecord", inside | {"shard": "", "members": {}})
    with pytest.raises(jsonschema.ValidationError, match="source_sha256"):
        check("ClipRecord", inside | {"source_sha256": "abc"})
    with pytest.raises(jsonschema.ValidationError, match="surprise"):
        check("Refusal", {"status": "failed", "source": "a", "stage": "s", "code": "c", "reason": "r", "surprise": 1})
