"""clips.jsonl: the measured scores, one line per clip and pass."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from fw_train.config.schema import ConfigError
from fw_train.evaluate.evaluation import Plain
from fw_train.evidence.scores import Scores

LINES = "clips.jsonl"
Key = tuple[str, int, int, int, str]


class Line(BaseModel):
    """The measured scores of one clip of one pass."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    """`reference`, `model`, `base`, `splats` or the name of an arm."""
    run: int
    """Number of the training under this name, from 0."""
    seed: int
    """Noise seed."""
    steps: int
    """Denoising steps; 0 for the references."""
    clip: str
    """Clip id."""
    group: str
    """World that the clip shows."""
    settings: dict[str, Plain]
    """Settings that determine the scores."""
    scores: Scores
    """Scores by name (see `fw_train.evidence.scores`); null = not defined for this clip."""

    @property
    def key(self) -> Key:
        """Unique among the lines."""
        return self.model, self.run, self.seed, self.steps, self.clip


def read_lines(path: Path) -> list[Line]:
    """The lines of an earlier run, without an incomplete last line of a killed run.

    Raises:
        ConfigError: another line is invalid.
    """
    if not path.is_file():
        return []
    texts = path.read_text(encoding="utf-8").splitlines(keepends=True)
    if texts and not texts[-1].endswith("\n"):
        texts.pop()
        path.write_text("".join(texts), encoding="utf-8")
    try:
        return [Line.model_validate_json(text) for text in texts]
    except ValidationError as error:
        raise ConfigError(f"{path} has a line that this version cannot read ({error}); use another --out") from None


def check_settings(before: Line, settings: dict[str, Plain], out: Path) -> None:
    """Raise ConfigError if a line was measured with other settings; the message lists the differences."""
    names = sorted(k for k in before.settings.keys() | settings.keys() if before.settings.get(k) != settings.get(k))
    if names:
        changes = "; ".join(f"{name}: {before.settings.get(name)} before, {settings.get(name)} now" for name in names)
        raise ConfigError(
            f"{out / LINES} has clips of {before.model} with other settings ({changes}); use another --out"
        )
