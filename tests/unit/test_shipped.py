"""Programs that an installation brings along: the same bytes each time, used only where they are what is asked for.

That they are what the assembler makes on a kernel is tested where there is one: tests/vm/test_start.py.
"""

from __future__ import annotations

import marshal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylsm.asm import R0, Asm
from pylsm.asm.proof import NotProved
from pylsm.audit import maps, shipped
from pylsm.audit.events import DEFAULT
from pylsm.audit.shipped import FILE, Shipped, build
from pylsm.audit.sources import SOURCES, Options, Plan
from pylsm.loader.prepare import prepare
from pylsm.loader.template import Template

PLAN = Plan(SOURCES[0].name, SOURCES[0].variants[0])


@pytest.fixture(scope="module")
def contents() -> bytes:
    return build()


@pytest.fixture
def package(contents: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A package that brings its programs along."""
    file = tmp_path / "pylsm" / FILE
    file.parent.mkdir(parents=True)
    file.write_bytes(contents)
    monkeypatch.setattr("pylsm.__file__", str(tmp_path / "pylsm" / "__init__.py"))
    return file


def test_the_same_modules_give_the_same_bytes(contents: bytes) -> None:
    assert build() == contents
    assert str(Path(__file__).parents[2]).encode() not in contents, "where it was built is not in it"


def test_a_checkout_has_none() -> None:
    root = Path(__file__).parents[2]
    assert not (root / "pylsm" / FILE).exists(), "setup.py writes into what it builds only"
    found = Shipped()
    assert found.maps({maps.RING.name: 1 << 16}) is None and found.programs(PLAN, "hooks") is None


def test_maps_are_those_that_would_be_prepared_in_the_sizes_asked_for(package: Path) -> None:
    specs = [maps.TRACED.resized(77), maps.RING.resized(1 << 16)]
    assert Shipped().maps({spec.name: spec.max_entries for spec in specs}) == prepare((), maps=specs)


def test_a_map_of_another_name_is_not_brought_along(package: Path) -> None:
    assert Shipped().maps({maps.RING.name: 1 << 16, "other": 1}) is None


@pytest.mark.parametrize(
    "plan",
    [
        PLAN._replace(source="fentry"),
        PLAN._replace(variant=SOURCES[0].variants[1]),
        PLAN._replace(options=Options(dedup="off")),
        PLAN._replace(events=(*DEFAULT, "kill")),
    ],
    ids=["source", "variant", "options", "events"],
)
def test_other_plans_are_assembled(package: Path, plan: Plan) -> None:
    assert Shipped().programs(plan, "hooks") is None


@pytest.mark.parametrize("field", [0, 1], ids=["version", "byte order"])
def test_what_another_version_made_is_not_used(package: Path, contents: bytes, field: int) -> None:
    changed: list[Any] = list(marshal.loads(contents))
    changed[field] = "another"
    package.write_bytes(marshal.dumps(tuple(changed), 2))
    assert Shipped().maps({maps.RING.name: 1 << 16}) is None


@pytest.mark.parametrize("damage", [b"", b"x", b"\xe9\0\0\0\0", marshal.dumps((1, 2), 2), marshal.dumps(5, 2)])
def test_a_file_that_is_none_is_passed_over(package: Path, damage: bytes) -> None:
    package.write_bytes(damage)
    assert Shipped().maps({maps.RING.name: 1 << 16}) is None


@given(st.integers(0, 50_000))
def test_a_file_cut_short_is_passed_over(size: int) -> None:
    with pytest.raises((EOFError, ValueError, TypeError)):
        marshal.loads(build_once()[:size])


_once: list[bytes] = []


def build_once() -> bytes:
    if not _once:
        _once.append(build())
    return _once[0]


def test_a_template_is_unpacked_as_it_was_packed(contents: bytes) -> None:
    _, _, _, parts = marshal.loads(contents)
    for _, programs in parts:
        for *_, packed in programs:
            template = Template.unpack(marshal.loads(packed))
            assert template.pack() == marshal.loads(packed)
            assert template.asked or template.image.name == "sched_process_exit" or template.image.references


def test_no_file_is_built_of_a_program_that_is_not_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    a = Asm("lsm/file_open")
    a.mov(R0, -1)
    a.exit_()
    with pytest.raises(NotProved):
        shipped._verdict(a.build())
