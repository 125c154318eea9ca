"""Maps of the running kernel."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cases.lab import EMULATED

from pylsm.asm import R0, Asm, MapSpec, MapType
from pylsm.btf import BtfWriter
from pylsm.loader import BpfError, Link, LoadedProgram, Map, MapMismatchError, PinError, SpecError, features
from pylsm.loader.maps import EXIST, NOEXIST, possible_cpus

pytestmark = pytest.mark.root

HASH = MapSpec("pylsm_test", MapType.HASH, key=4, value=8, max_entries=16)


def key(number: int) -> bytes:
    return struct.pack("=I", number)


def value(number: int) -> bytes:
    return struct.pack("=Q", number)


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.fixture
def bpffs(tmp_path: Path) -> Iterator[Path]:
    """A BPF filesystem of the test's own."""
    directory = tmp_path / "bpf"
    directory.mkdir()
    mounted = subprocess.run(["mount", "-t", "bpf", "bpf", str(directory)], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a BPF filesystem: {mounted.stderr.strip()}")
    yield directory
    subprocess.run(["umount", str(directory)], check=True)


# --- elements -----------------------------------------------------------------------------------------------------


def test_lookup_update_delete() -> None:
    with Map.create(HASH) as map:
        assert map.lookup(key(1)) is None
        map.update(key(1), value(10))
        assert map.lookup(key(1)) == value(10)
        map.update(key(1), value(11))
        assert map.lookup(key(1)) == value(11)
        assert map.delete(key(1)) is True
        assert map.delete(key(1)) is False
        assert map.lookup(key(1)) is None


def test_flags_of_update() -> None:
    with Map.create(HASH) as map:
        with pytest.raises(BpfError) as caught:
            map.update(key(1), value(1), EXIST)
        assert caught.value.errno == errno.ENOENT
        map.update(key(1), value(1), NOEXIST)
        with pytest.raises(BpfError) as caught:
            map.update(key(1), value(2), NOEXIST)
        assert caught.value.errno == errno.EEXIST
        assert map.lookup(key(1)) == value(1)


def test_a_full_map_says_so() -> None:
    with Map.create(HASH) as map:
        for number in range(16):
            map.update(key(number), value(number))
        with pytest.raises(BpfError) as caught:
            map.update(key(99), value(99))
        assert caught.value.errno == errno.E2BIG
        assert "the map is full" in caught.value.hint


@pytest.mark.parametrize(
    ("made", "given", "message"),
    [
        (b"abc", value(1), "map 'pylsm_test' has 4-byte keys; a key of 3 bytes was given"),
        (key(1), b"short", "map 'pylsm_test' has 8-byte values; a value of 5 bytes was given"),
        (key(1), [value(1), value(2)], "has one value per key; 2 were given"),
    ],
)
def test_lengths_are_checked_before_the_kernel_would_read_beyond_them(made: bytes, given: object, message: str) -> None:
    with Map.create(HASH) as map, pytest.raises(SpecError) as caught:
        map.update(made, given)  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_keys_and_items() -> None:
    with Map.create(HASH.resized(5000)) as map:
        for number in range(3000):
            map.update(key(number), value(number * 2))
        assert sorted(map.keys()) == sorted(key(number) for number in range(3000))
        assert dict(map.items()) == {key(number): value(number * 2) for number in range(3000)}


@pytest.mark.parametrize("type", [MapType.HASH, MapType.LRU_HASH, MapType.LPM_TRIE])
def test_the_consumer_may_delete_what_it_is_given(type: MapType) -> None:
    trie = type is MapType.LPM_TRIE
    spec = MapSpec("pylsm_test", type, key=8 if trie else 4, value=8, max_entries=2000, flags=int(trie))

    def made(number: int) -> bytes:
        return struct.pack("=I4s", 32, struct.pack(">I", number)) if trie else key(number)

    with Map.create(spec) as map:
        for number in range(500):
            map.update(made(number), value(number))
        seen = []
        for found, _ in map.items():
            seen.append(found)
            assert map.delete(found)
        assert sorted(seen) == sorted(made(number) for number in range(500))
        assert list(map.keys()) == []


@pytest.mark.parametrize("type", [MapType.HASH, MapType.LPM_TRIE])
def test_what_stays_is_seen_exactly_once_while_others_come_and_go(type: MapType) -> None:
    trie = type is MapType.LPM_TRIE
    spec = MapSpec("pylsm_test", type, key=8 if trie else 4, value=8, max_entries=20_000, flags=int(trie))

    def made(number: int) -> bytes:
        return struct.pack("=I4s", 32, struct.pack(">I", number)) if trie else key(number)

    with Map.create(spec) as map:
        for number in range(1000):
            map.update(made(number), value(number))
        stays = {made(number) for number in range(1000)}
        stop = threading.Event()
        rounds = 0

        def churn() -> None:
            nonlocal rounds
            while not stop.is_set():
                for number in range(50_000, 50_100):
                    map.update(made(number), value(number))
                for number in range(50_000, 50_100):
                    map.delete(made(number))
                rounds += 1

        thread = threading.Thread(target=churn)
        thread.start()
        try:
            for _ in range(5 if EMULATED else 20):
                found = list(map.keys())
                assert sorted(one for one in found if one in stays) == sorted(stays)
            while rounds < 2:
                time.sleep(0.01)
        finally:
            stop.set()
            thread.join()


def test_arrays_have_every_index() -> None:
    with Map.create(MapSpec("pylsm_test", MapType.ARRAY, key=4, value=2, max_entries=3)) as map:
        map.update(key(1), b"ab")
        assert list(map.items()) == [(key(0), b"\0\0"), (key(1), b"ab"), (key(2), b"\0\0")]


@pytest.mark.parametrize("type", [MapType.ARRAY, MapType.PERCPU_ARRAY])
def test_arrays_are_read_in_batches_of_any_number(type: MapType) -> None:
    with Map.create(MapSpec("pylsm_test", type, key=4, value=8, max_entries=600)) as map:
        for index in (0, 255, 256, 599):
            map.update(key(index), value(index + 1))
        found = list(map.items())
        assert [each for each, _ in found] == [key(index) for index in range(600)]
        for index in (0, 1, 255, 256, 599):
            assert found[index][1] == map.lookup(key(index))


@pytest.mark.parametrize("size", [1, 8, 12])
def test_per_cpu_values_one_for_each_possible_cpu(size: int) -> None:
    cpus = possible_cpus()
    with Map.create(MapSpec("pylsm_test", MapType.PERCPU_ARRAY, key=4, value=size, max_entries=2)) as map:
        assert map.per_cpu
        assert map.lookup(key(0)) == [bytes(size)] * cpus
        each = [bytes([number + 1]) * size for number in range(cpus)]
        map.update(key(0), each)
        assert map.lookup(key(0)) == each
        map.update(key(1), b"x" * size)
        assert list(map.items()) == [(key(0), each), (key(1), [b"x" * size] * cpus)]
        with pytest.raises(SpecError, match=f"a value for each of {cpus} CPUs"):
            map.update(key(0), [bytes(size)] * (cpus + 1))


def test_per_cpu_hash_by_batch() -> None:
    with Map.create(MapSpec("pylsm_test", MapType.PERCPU_HASH, key=4, value=4, max_entries=1000)) as map:
        for number in range(700):
            map.update(key(number), key(number))
        assert dict(map.items()) == {key(n): [key(n)] * possible_cpus() for n in range(700)}


def test_queues_and_stacks() -> None:
    for type, order in ((MapType.QUEUE, [1, 2, 3]), (MapType.STACK, [3, 2, 1])):
        with Map.create(MapSpec("pylsm_test", type, value=8, max_entries=4)) as map:
            for number in (1, 2, 3):
                map.update(b"", value(number))
            assert map.lookup() == value(order[0])
            assert [map.pop() for _ in range(3)] == [value(number) for number in order]
            assert map.pop() is None


def test_a_frozen_map_is_read_only_from_here() -> None:
    with Map.create(MapSpec("pylsm_test", MapType.ARRAY, key=4, value=8, max_entries=1)) as map:
        map.update(key(0), value(7))
        map.freeze()
        with pytest.raises(BpfError) as caught:
            map.update(key(0), value(8))
        assert caught.value.errno == errno.EPERM
        assert map.lookup(key(0)) == value(7)


# --- the object ---------------------------------------------------------------------------------------------------


def test_info() -> None:
    with Map.create(HASH) as map:
        info = map.info
        assert (info.type, info.key_size, info.value_size, info.max_entries, info.name) == (1, 4, 8, 16, "pylsm_test")
        with Map.from_id(info.id) as again:
            map.update(key(1), value(5))
            assert again.lookup(key(1)) == value(5)


def test_closing_is_final_and_leaves_no_descriptor() -> None:
    before = descriptors()
    map = Map.create(HASH)
    map.close()
    map.close()
    assert descriptors() == before
    with pytest.raises(ValueError, match="map 'pylsm_test' is closed"):
        map.lookup(key(1))


def test_task_storage_gets_the_types_that_the_kernel_wants() -> None:
    if not features.map_type(MapType.TASK_STORAGE).supported:
        pytest.skip("this kernel has no task storage")
    with Map.create(MapSpec("pylsm_test", MapType.TASK_STORAGE, key=4, value=8, max_entries=0, flags=1)) as map:
        assert map.info.key_type_id and map.info.value_type_id


class Layout:
    """A record of a process id and a mode."""

    name = "watched"
    size = 8

    def field(self, name: str) -> tuple[int, int]:
        return {"tgid": (0, 4), "mode": (4, 4)}[name]

    def btf(self, writer: BtfWriter) -> int:
        u32 = writer.int_("unsigned int", 4)
        return writer.struct("watched", [("tgid", u32, 0), ("mode", u32, 32)])


def test_bpftool_prints_the_fields_of_records() -> None:
    spec = MapSpec("pylsm_test", MapType.HASH, key=Layout(), value=Layout(), max_entries=4)
    with Map.create(spec) as map:
        assert map.info.btf_id
        map.update(struct.pack("=II", 4321, 1), struct.pack("=II", 7, 2))
        shown = subprocess.run(
            ["bpftool", "-p", "map", "dump", "id", str(map.info.id)], capture_output=True, text=True, check=True
        ).stdout
    assert '"tgid": 4321' in shown
    assert '"mode": 2' in shown


def test_by_descriptor() -> None:
    with Map.create(HASH) as map:
        with Map.from_fd(map.fileno(), HASH) as borrowed:
            assert borrowed.info.id == map.info.id
        map.update(key(1), value(1))  # closing what is borrowed leaves the owner's open
        copy = os.dup(map.fileno())
        Map.from_fd(copy, HASH, owned=True).close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(copy)


def test_a_descriptor_of_something_else() -> None:
    a = Asm("socket")
    a.mov(R0, 0)
    a.exit_()
    with LoadedProgram.load(a.build()) as program, pytest.raises(MapMismatchError) as caught:
        Map.from_fd(program.fileno(), HASH)
    assert "is a BPF program; pylsm_test needs a hash map" in str(caught.value)
    with open("/dev/null") as file, pytest.raises(MapMismatchError, match="is no BPF object, not a map"):
        Map.from_fd(file.fileno())
    with pytest.raises(MapMismatchError, match="file descriptor 12345 is not open"):
        Map.from_fd(12345)


def test_a_descriptor_that_does_not_fit_is_closed_only_if_owned() -> None:
    wrong = MapSpec("wanted", MapType.HASH, key=8, value=8, max_entries=1)
    with Map.create(HASH) as map:
        for owned in (False, True):
            copy = os.dup(map.fileno())
            with pytest.raises(MapMismatchError, match="a hash map with 4-byte keys; wanted needs 8-byte keys"):
                Map.from_fd(copy, wrong, owned=owned)
            if owned:
                with pytest.raises(OSError, match="Bad file descriptor"):
                    os.fstat(copy)
            else:
                os.close(copy)


# --- pins ---------------------------------------------------------------------------------------------------------


def test_a_pinned_map_outlives_its_owner(bpffs: Path) -> None:
    path = bpffs / "map"
    with Map.create(HASH) as map:
        map.update(key(1), value(42))
        map.pin(path)
    with Map.open_pinned(path, HASH) as again:
        assert again.lookup(key(1)) == value(42)
    assert path.stat().st_mode & 0o077 == 0, "only for its owner"
    path.unlink()


def test_pinning_says_why_not(bpffs: Path, tmp_path: Path) -> None:
    with Map.create(HASH) as map:
        map.pin(bpffs / "map")
        for path, number, sentence in (
            (bpffs / "map", errno.EEXIST, f"cannot pin map 'pylsm_test' to {bpffs}/map: something is there already"),
            (bpffs / "no" / "map", errno.ENOENT, f"there is no directory {bpffs}/no"),
            (bpffs / "a.b", errno.EPERM, f"cannot pin map 'pylsm_test' to {bpffs}/a.b: a BPF filesystem takes no dots"),
            (tmp_path / "map", errno.EPERM, f"{tmp_path} is not on a BPF filesystem"),
        ):
            with pytest.raises(PinError) as caught:
                map.pin(path)
            assert sentence in str(caught.value)
            assert caught.value.errno == number
        assert "/sys/fs/bpf" in caught.value.hint
        os.unlink(bpffs / "map")


def test_opening_says_what_is_there_instead(bpffs: Path, tmp_path: Path) -> None:
    a = Asm("raw_tp/sched_process_exit")
    a.mov(R0, 0)
    a.exit_()
    with LoadedProgram.load(a.build()) as program, program.attach() as link:
        program.pin(bpffs / "program")
        link.pin(bpffs / "link")
    (bpffs / "directory").mkdir()
    (tmp_path / "file").write_text("no map")
    before = descriptors()
    cases = [
        (bpffs / "gone", f"{bpffs}/gone does not exist: no map is pinned there"),
        (bpffs / "directory", f"{bpffs}/directory is a directory, not a pinned map"),
        (bpffs / "program", f"{bpffs}/program is a pinned program, not a map"),
        (bpffs / "link", f"{bpffs}/link is a pinned link, not a map"),
        (tmp_path / "file", f"{tmp_path}/file is no pinned map: it is not on a BPF filesystem"),
    ]
    if os.path.exists(bpffs / "maps.debug"):  # the kernel's own, where it was built with them
        cases.append((bpffs / "maps.debug", f"{bpffs}/maps.debug is a file of the BPF filesystem but no map"))
    for path, sentence in cases:
        with pytest.raises(PinError) as caught:
            Map.open_pinned(path)
        assert str(caught.value) == sentence
    with LoadedProgram.open_pinned(bpffs / "program") as again:
        assert again.name == "sched_process_e"
    with Link.open_pinned(bpffs / "link") as link:
        assert link.info.program_id
    with pytest.raises(PinError, match="is a pinned program, not a link"):
        Link.open_pinned(bpffs / "program")
    assert descriptors() == before, "nothing that was looked at stays open"
    os.unlink(bpffs / "program")
    os.unlink(bpffs / "link")


def test_a_pinned_map_that_does_not_fit(bpffs: Path) -> None:
    with Map.create(HASH) as map:
        map.pin(bpffs / "x")
    before = descriptors()
    with pytest.raises(MapMismatchError) as caught:
        Map.open_pinned(bpffs / "x", MapSpec("traced", MapType.HASH, key=8, value=8, max_entries=1))
    assert str(caught.value) == f"{bpffs}/x is a hash map with 4-byte keys; traced needs 8-byte keys"
    assert descriptors() == before
    os.unlink(bpffs / "x")
