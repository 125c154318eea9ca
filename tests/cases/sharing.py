"""Maps that other tools own, and a ring that others write to."""

from __future__ import annotations

import os
import socket
import struct
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cases.lab import CONNECTS_AND_OPENS, Lab, Worker, eventually, forked, touch
from pylsm.asm import R0, R2, R3, R6, Asm, MapSpec, MapType, Program, u32
from pylsm.audit import maps
from pylsm.audit.records import CONNECT, FILE_OPEN, KIND_CONNECT, KIND_OPEN, SOURCE_LSM
from pylsm.audit.session import Audit
from pylsm.loader import LoadedProgram, Map, MapMismatchError, PinError, RingBuffer

PAGE = os.sysconf("SC_PAGESIZE")


def tgid(pid: int) -> bytes:
    return struct.pack("=I", pid)


@pytest.fixture
def pins() -> Iterator[Path]:
    """A directory of the BPF filesystem."""
    directory = Path("/sys/fs/bpf") / f"pylsm-test-{uuid.uuid4().hex[:8]}"
    directory.mkdir()
    yield directory
    for path in directory.iterdir():
        path.unlink()
    directory.rmdir()


# --- a family of somebody else -------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["path", "descriptor", "map"])
def test_a_family_map_of_another_tool(source: str, pins: Path, tmp_path: Path, by: str) -> None:
    with Map.create(maps.TRACED.resized(64)) as family:
        family.pin(pins / "family")
        theirs, ours = (
            Worker(lambda: forked(lambda: touch(tmp_path / "theirs"))),
            Worker(lambda: touch(tmp_path / "ours")),
        )
        family.update(tgid(theirs.pid), struct.pack("=I", 77))
        given = {"path": str(pins / "family"), "descriptor": family.fileno(), "map": family}[by]
        with Audit(source=source, events=CONNECTS_AND_OPENS, traced_map=given) as audit:
            assert audit.family() == set()  # nobody of ours yet
            audit.trace([ours.pid])
            assert audit.family() == {ours.pid}
            assert {key for key, _ in family.items()} == {tgid(theirs.pid), tgid(ours.pid)}
            theirs.release()
            theirs.wait()
            seen = [os.path.basename(e.path) for e in audit.read()]
            assert seen == [b"theirs"]
            # Put it back, as if the other tool traced something that goes on.
            family.update(tgid(theirs.pid), struct.pack("=I", 77))
        # Ours is gone with us, theirs is as it was.
        assert list(family.items()) == [(tgid(theirs.pid), struct.pack("=I", 77))]
        ours.release()
        ours.wait()


def test_children_get_the_tag_of_their_parent(source: str) -> None:
    with (
        Map.create(maps.TRACED.resized(64)) as family,
        Audit(source=source, events=CONNECTS_AND_OPENS, traced_map=family) as audit,
    ):
        hold, release = os.pipe()
        worker = Worker(lambda: forked(lambda: os.read(hold, 1)))
        family.update(tgid(worker.pid), struct.pack("=I", 77))
        worker.release()
        assert eventually(lambda: len(list(family.items())) == 2)
        assert {tag for _, tag in family.items()} == {struct.pack("=I", 77)}
        assert audit.family() == set()
        os.write(release, b"x")
        worker.wait()


MISMATCHES: dict[str, tuple[MapSpec, str, str]] = {
    "array": (
        MapSpec("x", MapType.ARRAY, key=4, value=4, max_entries=8),
        "traced_map",
        "is an array; traced_processes needs a hash map",
    ),
    "long keys": (
        MapSpec("x", MapType.HASH, key=8, value=4, max_entries=8),
        "traced_map",
        "is a hash map with 8-byte keys; traced_processes needs 4-byte keys",
    ),
    "long values": (
        MapSpec("x", MapType.HASH, key=4, value=1, max_entries=8),
        "traced_map",
        "is a hash map with 1-byte values; traced_processes needs 4-byte values",
    ),
    "ring as family": (
        MapSpec("x", MapType.RINGBUF, max_entries=PAGE),
        "traced_map",
        "is a ring buffer with no keys and no values; traced_processes needs a hash map with 4-byte keys and "
        "4-byte values",
    ),
    "hash as ring": (
        MapSpec("x", MapType.HASH, key=4, value=4, max_entries=8),
        "ring",
        "pylsm_ring needs a ring buffer",
    ),
}


@pytest.mark.parametrize("name", MISMATCHES)
def test_a_map_of_the_wrong_shape_is_refused_in_words(source: str, pins: Path, name: str) -> None:
    spec, argument, message = MISMATCHES[name]
    with Map.create(spec) as wrong:
        wrong.pin(pins / "wrong")
        for given in (str(pins / "wrong"), wrong.fileno(), wrong):
            with pytest.raises(MapMismatchError, match=message):
                Audit(source=source, events=CONNECTS_AND_OPENS, **{argument: given})  # type: ignore[arg-type]


def test_paths_that_are_no_map(source: str, pins: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, why in (
        (pins / "nothing", "does not exist"),
        (pins, "is a directory"),
        (tmp_path / "file", "not on a BPF filesystem"),
    ):
        with pytest.raises(PinError, match=why):
            Audit(source=source, events=CONNECTS_AND_OPENS, traced_map=str(path))
    with LoadedProgram.load(producer(maps.RING, 8), maps={"pylsm_ring": ring_map(), "payload": payload(b"x" * 8)}) as p:
        p.pin(pins / "program")
        with pytest.raises(PinError, match="is a pinned program, not a map"):
            Audit(source=source, events=CONNECTS_AND_OPENS, ring=str(pins / "program"))


# --- a ring with other producers ---------------------------------------------------------------------------------


def ring_map(size: int = 16 * PAGE) -> Map:
    return Map.create(maps.RING.resized(size))


def payload(data: bytes) -> Map:
    made = Map.create(MapSpec("payload", MapType.ARRAY, key=4, value=len(data), max_entries=1))
    made.update(bytes(4), data)
    return made


def producer(ring: MapSpec, size: int) -> Program:
    """Another tool: each run puts the payload into the ring."""
    a = Asm("socket", name="producer")
    out = a.label("out")
    zero = a.stack(4, "zero")
    a.st(u32[zero], 0)
    a.mov(R6, 0)
    a.call("map_lookup_elem", MapSpec("payload", MapType.ARRAY, key=4, value=size, max_entries=1), zero)
    a.jeq(R0, 0, out)
    a.mov(R2, R0)
    a.mov(R3, size)
    a.call("ringbuf_output", ring, None, None, 0)
    a.mov(R6, R0)
    a.bind(out)
    a.mov(R0, R6)
    a.exit_()
    return a.build()


@pytest.fixture
def stranger() -> Iterator[Callable[[Map, bytes], Callable[[], int]]]:
    """Makes a function that puts a record into a ring, as another tool does; it returns 0, or an errno as u32."""
    with ExitStack() as stack:

        def make(ring: Map, data: bytes) -> Callable[[], int]:
            record = stack.enter_context(payload(data))
            program = stack.enter_context(
                LoadedProgram.load(producer(maps.RING, len(data)), maps={"pylsm_ring": ring, "payload": record})
            )
            return lambda: program.test_run().retval

        yield make


def test_records_of_others_are_counted_and_passed_over(
    source: str, tmp_path: Path, stranger: Callable[[Map, bytes], Callable[[], int]]
) -> None:
    with ring_map() as ring, Audit(source=source, events=CONNECTS_AND_OPENS, ring=ring) as audit:
        lab = Lab(audit)
        foreign = [struct.pack("=I", n) + b"\xff" * 60 for n in (0, 1, 7, 9)] + [b"\1\0\0\0", b"\7\0\0\0\0"]
        broken = [struct.pack("=IH", SOURCE_LSM, kind) + bytes(tail) for kind, tail in ((1, 2), (2, 60), (99, 600))]
        for data in [*foreign, *broken, b"\x08"]:
            assert stranger(ring, data)() == 0
        outcome = lab.run(lambda: touch(tmp_path / "mine"))
        assert [e.path for e in outcome.events] == [os.fsencode(tmp_path / "mine")]
        counts = audit.counts()
        assert (counts.foreign, counts.malformed, counts.leaked) == (len(foreign), len(broken) + 1, 0)
        assert counts.recorded == 1


def test_a_leaking_record_is_told(source: str, stranger: Callable[[Map, bytes], Callable[[], int]]) -> None:
    with ring_map() as ring, Audit(source=source, events=CONNECTS_AND_OPENS, ring=ring) as audit:
        record = bytearray(FILE_OPEN.size) + b"/x\0secret\0"
        record[:6] = struct.pack("=IH", SOURCE_LSM, KIND_OPEN)
        assert stranger(ring, bytes(record))() == 0
        (event,) = audit.read()
        assert event.path == b"/x"
        assert audit.leaked == audit.counts().leaked == 1


# --- nothing of what was in the ring before ------------------------------------------------------------------------


def test_no_stale_byte_in_any_record(
    source: str, tmp_path: Path, stranger: Callable[[Map, bytes], Callable[[], int]]
) -> None:
    """The ring is full of 0xAA before; then each record is compared with what construct makes of what is known."""
    size = 16 * PAGE  # enough for all that the process does
    with ring_map(size) as ring, RingBuffer(ring) as reader:
        poison = stranger(ring, b"\xaa" * 992)
        filled = 0
        while filled < 3 * size:
            assert poison() == 0
            filled += 1000
            assert reader.read() == [b"\xaa" * 992]
        assert bytes(reader.data[:size]).count(0xAA) > 0.98 * size

        with Audit(source=source, events=CONNECTS_AND_OPENS, ring=ring) as audit:
            names = [b"x", b"a longer name", b"n" * 255, b"y", b"zz", b"7 chars"] + [b"f%d" % n for n in range(150)]

            def work() -> list[tuple[bytes, int, int]]:
                with open("/proc/self/comm", "wb") as file:
                    file.write(b"fifteen letters")
                with open("/proc/self/comm", "wb") as file:
                    file.write(b"c")
                done = []
                for name in names:
                    path = os.fsencode(tmp_path) + b"/" + name
                    touch(path)
                    found = os.stat(path)
                    done.append((path, found.st_ino, found.st_dev))
                for address in [("127.0.0.1", 80), ("10.0.0.1", 0)]:
                    with socket.socket(type=socket.SOCK_DGRAM) as sock:
                        sock.connect_ex(address)
                with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
                    sock.connect_ex(("::1", 443))
                return done

            lab = Lab(audit)
            worker = Worker(work)
            audit.trace([worker.pid])
            worker.release()
            result = worker.wait()
            lab.settle()
            records = reader.read()
            assert audit.counts().lost == 0

    opened = {path: (inode, device) for path, inode, device in result}
    connects = [
        (socket.AF_INET, 80, b"\x7f\0\0\1"),
        (socket.AF_INET, 0, b"\n\0\0\1"),
        (socket.AF_INET6, 443, bytes(15) + b"\1"),
    ]
    seen = 0
    numbers: dict[int, list[int]] = {}
    for record in records:
        kind = struct.unpack_from("=H", record, 4)[0]
        layout = FILE_OPEN if kind == KIND_OPEN else CONNECT
        found = layout.unpack(record)
        known = {
            **found,  # what only the kernel knows: the time, open flags, mode bits
            "source": SOURCE_LSM,
            "flags": 0,
            "pid_tgid": worker.pid << 32 | worker.pid,
            "uid_gid": 0,
            "comm": b"c".ljust(16, b"\0"),
        }
        if kind == KIND_CONNECT:
            family, port, address = connects.pop(0)
            known.update(family=family, port=port, address=address.ljust(16, b"\0"))
        else:
            path = found["path"].partition(b"\0")[0]
            if path not in opened:
                continue  # the comm file
            inode, device = opened.pop(path)
            known.update(inode=inode, device=os.major(device) << 20 | os.minor(device), path=path + b"\0")
            known.update(mnt_ns=os.stat("/proc/self/ns/mnt").st_ino)
            assert found["granted"] & 3 == 2
            assert found["granted"] != 0xAAAAAAAA != found["open_flags"]
        assert record == layout.pack(known)
        assert found["cpu"] < (os.cpu_count() or 1)
        numbers.setdefault(found["cpu"], []).append(found["sequence"])
        seen += 1
    for taken in numbers.values():  # one process: nothing interrupts it here
        assert taken == sorted(set(taken))
    assert (opened, connects) == ({}, [])
    assert seen == len(names) + 3
