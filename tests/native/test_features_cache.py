"""The survey of features is kept until the next boot, and not believed when somebody else may have written it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pylsm.loader import features
from pylsm.loader.features import Feature, cached_survey

SURVEY = {"group": {"yes": Feature(True), "no": Feature(False, "why not")}}


@pytest.fixture
def surveys(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each time that the kernel was asked."""
    made: list[int] = []
    monkeypatch.setattr(features, "survey", lambda: made.append(1) or SURVEY)
    return made


def test_the_kernel_is_asked_once(surveys: list[int], tmp_path: Path) -> None:
    directory = str(tmp_path / "new")
    assert cached_survey(directory) == cached_survey(directory) == SURVEY
    assert len(surveys) == 1
    (path,) = Path(directory).iterdir()
    assert Path("/proc/sys/kernel/random/boot_id").read_text().strip() in path.name


@pytest.mark.parametrize("damage", ["writable", "cut", "other"])
def test_what_is_not_ours_is_not_believed(surveys: list[int], tmp_path: Path, damage: str) -> None:
    cached_survey(str(tmp_path))
    (path,) = tmp_path.iterdir()
    if damage == "writable":
        path.write_text(json.dumps({"group": {"yes": [False, "forged"]}}))
        os.chmod(path, 0o666)
    else:
        path.write_text(path.read_text()[:9] if damage == "cut" else "[1]")
    assert cached_survey(str(tmp_path)) == SURVEY
    assert len(surveys) == 2


def test_open_questions_are_asked_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(features, "survey", lambda: {"group": {"unknown": Feature(None, "no privilege")}})
    cached_survey(str(tmp_path))
    assert list(tmp_path.iterdir()) == []
