"""The `card` command: README.md of a dataset, from its own figures and from facts that only a person knows.

DATASET/about.json keeps the second kind (title, description, licenses), so that the page can be written again after
the dataset has grown. Everything else comes from dataset.json, the manifest and refusals.jsonl.
"""

import json
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from fw_core.files import write_bytes
from fw_core.tables import markdown
from fw_data.annotate.workdir import CARD_NAME, REFUSALS_NAME
from fw_data.dataset.reader import ClipDataset
from fw_data.dataset.schema import ClipRecord, DatasetCard, Refusal
from fw_data.errors import DataError
from fw_data.inspect.stats import dataset_stats
from fw_data.options import CardOptions

ABOUT_NAME, PAGE_NAME = "about.json", "README.md"
NO_LICENSE = "not stated"


class About(BaseModel):
    """about.json: facts that only a person knows. Files with the former key `licences` are read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str = Field(default="", description="one line")
    description: str = Field(default="", description="content, origin and purpose of the videos")
    licenses: dict[str, str] = Field(
        default_factory=dict,
        validation_alias=AliasChoices("licenses", "licences"),
        description="pattern of source paths (* for all) -> license; the last match counts",
    )

    def license(self, record: ClipRecord) -> str:
        """The license of a clip's source."""
        fitting = [text for pattern, text in self.licenses.items() if fnmatchcase(record.source, pattern)]
        return fitting[-1] if fitting else NO_LICENSE


def run(options: CardOptions) -> int:
    """Write the page; returns the exit code: 1 if the description or a license is missing."""
    from fw_data.console import stdout_console

    dataset = ClipDataset(options.dataset)
    about = _updated(read_about(options.dataset), options)
    card = DatasetCard.model_validate_json((options.dataset / CARD_NAME).read_bytes())
    write_bytes(options.dataset / ABOUT_NAME, about.model_dump_json(indent=1).encode() + b"\n", durable=True)
    write_bytes(options.dataset / PAGE_NAME, page(dataset, card, about).encode(), durable=True)
    missing = gaps(dataset, about)
    console = stdout_console()
    for gap in missing:
        console.print(f"missing: {gap}", highlight=False, markup=False)
    console.print(f"{options.dataset / PAGE_NAME}: {len(dataset)} clips", highlight=False, markup=False)
    return 1 if missing else 0


def read_about(dataset: Path) -> About:
    """about.json of a dataset, or an empty one; DataError when it does not read."""
    path = dataset / ABOUT_NAME
    if not path.is_file():
        return About()
    try:
        return About.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise DataError("about", f"{path}: {' '.join(str(error).split())}") from error


def gaps(dataset: ClipDataset, about: About) -> list[str]:
    """Missing parts of the page, and how to add them."""
    found = []
    if not about.description:
        found.append("the description: --description TEXT")
    unlicensed = sorted({record.source for record in dataset.records if about.license(record) == NO_LICENSE})
    if unlicensed:
        found.append(f"the license of {len(unlicensed)} sources, first {unlicensed[0]}: --license '*=TEXT'")
    return found


def page(dataset: ClipDataset, card: DatasetCard, about: About) -> str:
    """The page as Markdown."""
    figures = dataset_stats(dataset.records)
    spreads = {name: value for name, value in figures.items() if isinstance(value, dict) and "median" in value}
    sections = [
        f"# {about.title or dataset.path.resolve().name}",
        about.description or "(no description yet)",
        "## Figures",
        markdown(
            ("figure", "value"), [(name, _value(value)) for name, value in figures.items() if name not in spreads]
        ),
        "## Scale",
        _scale(dataset),
        "## Licenses",
        markdown(("license", "clips"), Counter(about.license(record) for record in dataset.records).most_common()),
        "## Conventions",
        markdown(("name", "meaning"), list(card.conventions.items())),
        "## Quality",
        "Grades: " + (", ".join(f"{count} {letter}" for letter, count in card.grades.items()) or "none") + ".",
        markdown(
            ("score", "min", "median", "max", "meaning"),
            [
                (name, *(f"{float(value[key]):.4g}" for key in ("min", "median", "max")), card.scores.get(name, ""))
                for name, value in spreads.items()
            ],
        ),
        "## Left out",
        _left_out(dataset.path / REFUSALS_NAME),
        "## How it was made",
        markdown(("setting", "value"), [(name, json.dumps(value)) for name, value in card.config.items()]),
        f"Settings {card.config_hash}; " + ", ".join(f"{name} {text}" for name, text in card.versions.items()) + ".",
        "## Files",
        _FILES,
    ]
    return "\n\n".join(sections) + "\n"


def _updated(about: About, options: CardOptions) -> About:
    licenses = dict(about.licenses)
    for entry in options.license:
        pattern, found, text = entry.partition("=")
        if not found or not pattern or not text.strip():
            raise ValueError(f"--license {entry!r}: give PATTERN=TEXT, such as '*=CC-BY-4.0'")
        licenses.pop(pattern, None)
        licenses[pattern] = text.strip()
    changes = {"title": options.title, "description": options.description}
    return about.model_copy(update={k: v for k, v in changes.items() if v is not None} | {"licenses": licenses})


def _scale(dataset: ClipDataset) -> str:
    counts = Counter(record.units for record in dataset.records)
    flat = sum(not record.has_depth for record in dataset.records)
    lines = [
        f"- {counts['metric']} clips are metric: depth and translation are meters.",
        f"- {counts['scene']} clips are up to scale: depth and translation share one unknown factor per clip. Compare "
        "lengths within a clip only; training divides by the mean distance of the clip's points.",
    ]
    return "\n".join(lines + ([f"- {flat} clips have cameras only: no depth."] if flat else []))


def _left_out(path: Path) -> str:
    rows = [Refusal.model_validate_json(line) for line in path.read_text().splitlines()] if path.is_file() else []
    if not rows:
        return "Nothing was left out."
    counts = Counter((row.status, row.code) for row in rows)
    return markdown(("outcome", "code", "count"), [(*key, count) for key, count in sorted(counts.items())])


def _value(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{count} {name}" for name, count in value.items())
    return f"{value:,}"


_FILES = """\
- `manifest.parquet`: one row per clip; `dataset.json`: settings, conventions, checksums of the shards.
- `shards/*.tar`: per clip `.mp4`, `.depth.zst`, `.conf.zst`, `.mask.zst`, `.cameras.npz`, `.json`; WebDataset tools
  read them.
- `refusals.jsonl`: what was left out, and why. `fw-data schema` prints the schema of all of these.

```python
from fw_data import ClipDataset
clip = ClipDataset(".").load(0)  # clip.video, clip.depth_m, clip.K, clip.pose_c2w, clip.points_world, clip.sky
```"""
