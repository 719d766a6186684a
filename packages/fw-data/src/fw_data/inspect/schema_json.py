"""The `schema` command: the JSON schema of all JSON in a dataset, generated from the models.

packages/fw-data/dataset.schema.json is its output; a test holds the two together.
"""

import json
from typing import Any

from pydantic.json_schema import models_json_schema

from fw_data.dataset.schema import FORMAT_NAME, FORMAT_VERSION, ClipRecord, DatasetCard, Refusal
from fw_data.inspect.card import About
from fw_data.options import SchemaOptions


def run(options: SchemaOptions) -> int:
    """Print the schema, or write it; returns the exit code."""
    if options.out is None:
        print(schema_text(), end="")
    else:
        options.out.write_text(schema_text(), encoding="utf-8")
    return 0


def schema_text() -> str:
    """The schema as the file holds it."""
    return json.dumps(dataset_schema(), indent=1) + "\n"


def dataset_schema() -> dict[str, Any]:
    """One document, JSON Schema 2020-12: `$defs` has ClipRecord, Refusal, DatasetCard and About.

    dataset.json is a DatasetCard, a line of refusals.jsonl a Refusal, a row of the manifest and a {id}.json inside a
    shard a ClipRecord, about.json an About.
    """
    models = (ClipRecord, Refusal, DatasetCard, About)
    _, schema = models_json_schema([(model, "validation") for model in models])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"{FORMAT_NAME} {FORMAT_VERSION}",
        "description": "dataset.json: DatasetCard. refusals.jsonl: Refusal per line. manifest.parquet and {id}.json: "
        "ClipRecord. about.json: About.",
        **schema,
    }
