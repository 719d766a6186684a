"""Wording: plain American English in documents and help, the field's terms, no phrases that read as translated."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.house import BRITISH, PHRASES, ROOT, count, pages, prose, words, written

WHAT_PER_1000 = 1.5
LONGEST_GUIDE = 2000
"""Words, code left out."""
CLEAN = ("apps", "benchmarks", "docs", "examples", "infra", "packages", "tests")
"""Folders whose sources follow the rules too."""
DOCUMENTS = [*pages(), ROOT / "Makefile", ROOT / "NOTICE"]


def names(document: Path) -> str:
    return document.relative_to(ROOT).as_posix()


def found(pattern: re.Pattern[str], text: str) -> Iterator[str]:
    return (match[0] for match in pattern.finditer(text))


@pytest.mark.parametrize("document", DOCUMENTS, ids=names)
def test_documents_avoid_the_listed_phrases(document: Path) -> None:
    assert not count(prose(document.read_text(encoding="utf-8")), PHRASES)


@pytest.mark.parametrize("document", DOCUMENTS, ids=names)
def test_documents_use_american_spelling_and_the_word_image(document: Path) -> None:
    text = prose(document.read_text(encoding="utf-8"))
    assert not set(found(BRITISH, text))
    assert not set(found(re.compile(r"\bpictures?\b(?! JPEG)", re.IGNORECASE), text.replace("multi-picture", "")))


def test_documents_say_the_thing_itself() -> None:
    texts = [prose(page.read_text(encoding="utf-8")) for page in pages()]
    total = sum(map(words, texts))
    assert count("\n".join(texts), ["what"])["what"] <= WHAT_PER_1000 * total / 1000


@pytest.mark.parametrize("guide", sorted((ROOT / "docs").glob("*.md")), ids=names)
def test_a_guide_is_short(guide: Path) -> None:
    assert words(guide.read_text(encoding="utf-8")) <= LONGEST_GUIDE


@pytest.mark.parametrize("folder", CLEAN)
def test_sources_follow_the_wording_of_the_documents(folder: str) -> None:
    for path, text in written().items():
        if path.startswith(f"{folder}/") and not path.endswith(".md"):
            assert not count(text, PHRASES), path
            assert not re.search(r"(?<!multi-)picture", text, re.IGNORECASE), path
