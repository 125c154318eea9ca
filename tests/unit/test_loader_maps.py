"""What is refused of maps before, or instead of, asking the kernel."""

from __future__ import annotations

import io
from mmap import PAGESIZE

import pytest

from pylsm.asm import Function, Instruction, MapSpec, MapType, Program
from pylsm.asm import opcodes as op
from pylsm.asm.references import MapRef
from pylsm.loader import Map, MapMismatchError, Object, SpecError, maps
from pylsm.loader.maps import MapInfo, check_map


def spec(type: MapType, key: int = 0, value: int = 0, entries: int = 1) -> MapSpec:
    return MapSpec("traced_pids", type, key=key, value=value, max_entries=entries)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (spec(MapType.RINGBUF, entries=100_000), "100000 bytes is not a power of two and a multiple of the page size"),
        (spec(MapType.RINGBUF, entries=PAGESIZE // 2), f"{PAGESIZE // 2} bytes is not a power of two"),
        (spec(MapType.RINGBUF, entries=3 * PAGESIZE), f"{3 * PAGESIZE} bytes is not a power of two"),
        (spec(MapType.RINGBUF, entries=0), "0 bytes is not a power of two"),
        (spec(MapType.RINGBUF, entries=-PAGESIZE), "bytes is not a power of two"),
        (spec(MapType.RINGBUF, 4, 4, PAGESIZE), "neither keys nor values"),
        (spec(MapType.ARRAY, 8, 8), "needs 4-byte keys, not 8-byte ones"),
        (spec(MapType.HASH, 4, 8, 0), "at least one entry"),
        (spec(MapType.HASH, 4, 8, 1 << 32), "4294967296 entries do not fit 32 bits"),
        (spec(MapType.HASH, 4, 8, -1), "-1 entries do not fit"),
        (spec(MapType.HASH, 0, 8), "keys and values of at least one byte"),
        (spec(MapType.TASK_STORAGE, 4, 8, 5), "no max_entries; 5 was given"),
    ],
)
def test_sizes_are_refused_by_value(made: MapSpec, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        Map.create(made)
    assert message in str(caught.value)
    assert "traced_pids" in str(caught.value)


@pytest.mark.parametrize(
    ("size", "hint"),
    [
        (100_000, "65536 and 131072"),
        (PAGESIZE + 1, f"{PAGESIZE} and {2 * PAGESIZE}"),
        (0, f"{PAGESIZE}"),
        (1, f"{PAGESIZE}"),
    ],
)
def test_the_nearest_ring_sizes_are_offered(size: int, hint: str) -> None:
    with pytest.raises(SpecError) as caught:
        Map.create(spec(MapType.RINGBUF, entries=size))
    assert caught.value.hint == f"the nearest sizes are {hint}"


def info(type: int, key: int, value: int, entries: int = 100) -> MapInfo:
    return MapInfo(type, 1, key, value, entries, 0, "theirs", 0, 0, 0)


HASH = spec(MapType.HASH, 4, 4)


@pytest.mark.parametrize(
    ("found", "expect", "sentence"),
    [
        (info(1, 8, 4), HASH, "/sys/fs/bpf/x is a hash map with 8-byte keys; traced_pids needs 4-byte keys"),
        (info(1, 4, 8), HASH, "/sys/fs/bpf/x is a hash map with 8-byte values; traced_pids needs 4-byte values"),
        (
            info(1, 8, 16),
            HASH,
            "/sys/fs/bpf/x is a hash map with 8-byte keys and 16-byte values; "
            "traced_pids needs 4-byte keys and 4-byte values",
        ),
        (info(2, 4, 4), HASH, "/sys/fs/bpf/x is an array; traced_pids needs a hash map"),
        (
            info(27, 0, 0),
            HASH,
            "/sys/fs/bpf/x is a ring buffer with no keys and no values; "
            "traced_pids needs a hash map with 4-byte keys and 4-byte values",
        ),
        (info(1, 4, 4), spec(MapType.RINGBUF), "/sys/fs/bpf/x is a hash map; traced_pids needs a ring buffer"),
        (info(25, 4, 4), HASH, "/sys/fs/bpf/x is a map of type DEVMAP_HASH; traced_pids needs a hash map"),
        (info(77, 4, 4), HASH, "/sys/fs/bpf/x is a map of the unknown type 77; traced_pids needs a hash map"),
    ],
)
def test_a_map_that_does_not_fit_is_told_in_words(found: MapInfo, expect: MapSpec, sentence: str) -> None:
    with pytest.raises(MapMismatchError) as caught:
        check_map(found, expect, "/sys/fs/bpf/x")
    assert str(caught.value) == sentence


def test_number_of_entries_and_flags_are_the_owners_business() -> None:
    check_map(info(1, 4, 4, 5), spec(MapType.HASH, 4, 4, 99), "x")
    check_map(info(27, 0, 0, 4096), spec(MapType.RINGBUF, entries=65536), "x")


@pytest.mark.parametrize(("text", "count"), [("0\n", 1), ("0-3\n", 4), ("0-1,8\n", 3), ("0,2-5,7\n", 6)])
def test_possible_cpus(monkeypatch: pytest.MonkeyPatch, text: str, count: int) -> None:
    monkeypatch.setattr(maps, "_possible_cpus", 0)
    monkeypatch.setattr("builtins.open", lambda *args, **kwargs: io.BytesIO(text.encode()))
    assert maps.possible_cpus() == count


def program(name: str, *specs: MapSpec) -> Program:
    loads = tuple(Instruction(op.LDDW, 1, reference=MapRef(one.name)) for one in specs)
    return Program(name, "socket", (*loads, Instruction(op.JMP | op.EXIT)), (Function(name, 0, 1),), specs)


@pytest.mark.parametrize(
    ("programs", "options", "message"),
    [
        ([program("a"), program("a")], {}, "two programs are called 'a'"),
        ([program("a", HASH), program("b", spec(MapType.HASH, 4, 8))], {}, "map 'traced_pids' is MapSpec"),
        ([program("a", HASH)], {"reuse": {"tracd": 3}}, "no program uses a map 'tracd'; there are: traced_pids"),
        ([program("a")], {"reuse": {"x": 3}}, "there are: none"),
        ([program("a", HASH)], {"maps": [spec(MapType.ARRAY, 4, 4)]}, "but the programs use"),
    ],
)
def test_objects_that_contradict_themselves(programs: list[Program], options: dict, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(SpecError, match=message):
        Object(programs, **options)
