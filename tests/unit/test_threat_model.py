"""docs/threat-model.md: the tests that it names are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/threat-model.md").read_text()
NAMED = re.findall(r'`(tests/[\w/]+\.py)(?: -k (?:"([\w ]+)"|(\w+)))?', PAGE)


@pytest.mark.parametrize(("file", "words"), [(file, quoted or word) for file, quoted, word in NAMED])
def test_what_is_named_is_there(file: str, words: str) -> None:
    """And ``-k`` selects something of it: each word is in the name of a test, or in what a shared case is called."""
    text = (ROOT / file).read_text()
    for module in re.findall(r"from ((?:cases|evasion)\.\w+) import", text):
        text += (ROOT / "tests" / f"{module.replace('.', '/')}.py").read_text()
    names = "\n".join(re.findall(r"def test_\w+|^@attempt\(.*", text, re.MULTILINE))
    assert names
    for word in words.split(" or ") if words else ():
        assert word in names, f"{file} has no test {word!r}"


def test_it_names_some() -> None:
    assert len(NAMED) > 15
