"""The survey of features is kept until the next boot, and not believed when somebody else may have written it."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import pytest

from pylsm.loader import features
from pylsm.loader.features import Feature, Survey, cached_survey

SURVEY = Survey(
    {"group": {"yes": Feature(True), "no": Feature(False, "why not"), "open": Feature(None, "no privilege")}},
    {"lsm": {"d_path": True, "send_signal": False}},
    {"lsm": {"bpf_path_d_path": False}},
)


@pytest.fixture
def surveys(monkeypatch: pytest.MonkeyPatch) -> list[Survey | None]:
    """What was known each time that the kernel was asked."""
    asked: list[Survey | None] = []
    monkeypatch.setattr(features, "survey", lambda known=None: asked.append(known) or SURVEY)
    return asked


def test_the_kernel_is_asked_once(surveys: list[Survey | None], tmp_path: Path) -> None:
    directory = str(tmp_path / "new")
    assert cached_survey(directory) == cached_survey(directory) == SURVEY
    assert surveys == [None, SURVEY], "the second time, for what the first left open"
    (path,) = Path(directory).iterdir()
    assert Path("/proc/sys/kernel/random/boot_id").read_text().strip() in path.name


@pytest.mark.parametrize("damage", ["writable", "cut", "list", "older", "odd"])
def test_what_is_not_ours_is_not_believed(surveys: list[Survey | None], tmp_path: Path, damage: str) -> None:
    cached_survey(str(tmp_path))
    (path,) = tmp_path.iterdir()
    if damage == "writable":
        path.write_text(path.read_text().replace("true", "false"))
        os.chmod(path, 0o666)
    else:
        text = path.read_text()
        damaged = {
            "cut": text[:9],
            "list": "[1]",
            "older": json.dumps({"group": {"yes": [True, ""]}}),
            "odd": text.replace('"d_path": true', '"d_path": 7'),
        }
        path.write_text(damaged[damage])
    assert cached_survey(str(tmp_path)) == SURVEY
    assert surveys == [None, None]


def test_only_what_was_left_open_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answered(name: str) -> Feature:
        asked.append(name)
        return Feature(True)

    def called(section: str) -> dict[str, bool | None]:
        asked.append(f"calls of {section}")
        return {"d_path": True}

    rows = {name: partial(answered, name) for name in ("yes", "no", "open", "new")}
    monkeypatch.setattr(features, "_questions", lambda: {"group": rows})
    monkeypatch.setattr(features, "SECTIONS", {"lsm": "lsm/file_open"})
    monkeypatch.setattr(features, "helpers", called)
    found = features.survey(SURVEY._replace(kfuncs={"lsm": {"bpf_path_d_path": None}}))
    assert asked == ["open", "new"]
    assert found.features["group"] == {**SURVEY.features["group"], "open": Feature(True), "new": Feature(True)}
    assert found.helpers == SURVEY.helpers
    features.survey(SURVEY._replace(helpers={"lsm": {"d_path": None}}))
    assert asked[-1] == "calls of lsm"
