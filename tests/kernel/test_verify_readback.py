"""Programs as the kernel gives them back: proved, tied to what was sent, refused when they do more than observe."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from pylsm.asm import R0, R1, R2, R6, Asm, MapSpec, MapType, Program, u32, u64
from pylsm.asm.proof import NotProved
from pylsm.audit.proof import TAIL_CALLS
from pylsm.audit.sources import LACKING, SOURCES, Source
from pylsm.btf import Btf
from pylsm.cli import prove
from pylsm.loader import LoadedProgram, Map, Object, ResolveError
from pylsm.loader.readback import prove_loaded, tags
from pylsm.loader.relocate import resolve

pytestmark = pytest.mark.root


def first_that_loads(source: Source) -> Object:
    for variant in source.variants[:-1]:
        try:
            return Object(source.all(variant))
        except LACKING:
            continue
    return Object(source.all(source.variants[-1]))


def test_what_this_kernel_runs_is_proved() -> None:
    source = next(source for source in SOURCES if source.name == "raw_tracepoint")
    with first_that_loads(source) as opened:
        for program in opened.programs.values():
            proof = prove_loaded(program, None, tail_calls=TAIL_CALLS)
            assert proof.exits and proof.instructions >= len(program.program.instructions) - 2  # type: ignore[union-attr]
            resolved = resolve(
                program.program,  # type: ignore[arg-type]
                {name: map_.fileno() for name, map_ in opened.maps.items()},
                Btf.kernel,
            )
            assert program.info.tag in tags(resolved)
            assert program.info.tag not in tags(resolved[:-1])


@pytest.mark.parametrize(
    ("kind", "key"), [(MapType.HASH, 8), (MapType.LRU_HASH, 8), (MapType.ARRAY, 4), (MapType.PERCPU_ARRAY, 4),
                      (MapType.PERCPU_HASH, 8), (MapType.LRU_PERCPU_HASH, 8)]
)  # fmt: skip
def test_lookups_that_the_kernel_rewrites_are_followed(kind: MapType, key: int) -> None:
    """A store behind each kind of lookup is known for one to the map's value."""
    spec = MapSpec("values", kind, key=key, value=24, max_entries=3)
    a = Asm("raw_tp/sys_enter")
    where = a.stack(8)
    a.st(u64[where], 1)
    a.call("map_lookup_elem", spec, where)
    with a.if_(R0, "!=", 0):
        a.st(u64[R0 + 16], 7)
    a.mov(R0, 0)
    a.exit_()
    with Map.create(spec) as map_, LoadedProgram.load(a.build(), maps={"values": map_}) as program:
        proof = prove_loaded(program, None)
        assert ("value of values", 1) in [(name, count) for name, count in proof.stores if name != "stack"] or kind in (
            MapType.LRU_HASH,
        )  # there the kernel's own instructions mark the element as used
        assert dict(proof.maps) == {"values": "written"}


def test_a_helper_is_told_by_its_address() -> None:
    a = Asm("raw_tp/sys_enter")
    a.mov(R1, 10)
    a.call("send_signal")
    a.mov(R0, 0)
    a.exit_()
    with LoadedProgram.load(a.build()) as program, pytest.raises(NotProved, match="bpf_send_signal"):
        prove_loaded(program, None)


def test_a_writing_program_is_refused_by_the_attach_of_an_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    from pylsm.audit import session
    from pylsm.audit.programs import table

    def bad(hook: object, variant: object, options: object) -> Program:
        a = Asm("raw_tp/sys_enter")
        a.mov(R6, R1)
        a.mov(R1, 10)
        a.call("send_signal")
        a.mov(R0, 0)
        a.exit_()
        return a.build()

    monkeypatch.setattr(table, "ROWS", (table.Row("connect", "sys_enter", ("raw_tracepoint",), bad),))
    monkeypatch.setenv("PYLSM_CACHE", "")
    with pytest.raises(session.UnavailableError, match="send_signal is not among the calls"):
        session.Audit(source="raw_tracepoint")


def test_hidden_addresses_are_no_proof(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    from pylsm.loader import readback

    hidden = f"{tmp_path}/kallsyms"
    with open(hidden, "w", encoding="ascii") as file:
        file.write("0000000000000000 T __bpf_call_base\n")
    monkeypatch.setattr(readback, "_KALLSYMS", hidden)
    a = Asm("raw_tp/sys_enter")
    a.call("ktime_get_ns")
    a.mov(R0, 0)
    a.exit_()
    with LoadedProgram.load(a.build()) as program, pytest.raises(ResolveError, match="does not show addresses"):
        prove_loaded(program, None)


def test_stack_and_context_are_followed_in_what_the_kernel_gives_back() -> None:
    a = Asm("raw_tp/sys_enter")
    slot = a.stack(8)
    a.stx(u64[slot], R1)
    a.ldx(R2, u64[slot])
    a.ldx(R0, u64[R2 + 8])
    a.st(u32[slot], 0)
    a.exit_()
    with LoadedProgram.load(a.build()) as program:
        assert dict(prove_loaded(program, None).stores) == {"stack": 2}


@pytest.mark.timeout(900)  # all programs of four sources, loaded and proved twice, emulated beside another machine
def test_check_prove(capsys: pytest.CaptureFixture[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pylsm", "check", "--prove", "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["proved"] is True
    loaded = [source for source in report["sources"] if source["loaded"]]
    assert loaded
    for source in loaded:
        assert len(source["programs"]) > 5
        for program in source["programs"]:
            assert program["tag_is_of_what_was_sent"], program["name"]
            assert program["read_back"]["exits"] and program["sent"]["exits"]
    # As text: the same report, without all the work once more.
    prove._print(report["sources"], 0)
    text = capsys.readouterr().out
    assert text.rstrip().endswith("own memory")
    for source in loaded:
        for program in source["programs"]:
            assert f"as program {program['id']}, tag {program['tag']}: the hash of what was sent\n" in text
