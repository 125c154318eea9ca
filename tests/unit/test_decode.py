"""Records → events: by construct as the oracle, and against bytes that nobody should send."""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
import time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pylsm.audit.decode import Decoder
from pylsm.audit.events import KINDS, Connect, FileOpen
from pylsm.audit.records import (
    CONNECT,
    FILE_OPEN,
    FLAG_BASENAME,
    FLAG_TRUNCATED,
    FLAG_UNLINKED,
    KIND_CONNECT,
    KIND_OPEN,
    SOURCE_LSM,
)

u8, u16, u32, u64 = (st.integers(0, (1 << bits) - 1) for bits in (8, 16, 32, 64))
comms = st.binary(max_size=15).map(lambda raw: raw.replace(b"\0", b"?"))
paths = st.binary(max_size=300).map(lambda raw: raw.replace(b"\0", b"?"))


def header(kind: int, flags: int = 0, pid: int = 4321, comm: bytes = b"cat") -> dict[str, Any]:
    return {
        "source": SOURCE_LSM,
        "kind": kind,
        "flags": flags,
        "pid_tgid": pid << 32 | pid,
        "uid_gid": 0,
        "time": time.clock_gettime_ns(time.CLOCK_BOOTTIME),
        "sequence": 0,
        "comm": comm.ljust(16, b"\0"),
        "cpu": 0,
    }


def open_record(path: bytes = b"/etc/passwd\0", **fields: Any) -> bytes:
    values = {**header(KIND_OPEN), "inode": 1, "device": 1 << 20, "open_flags": 0, "granted": 1, "mnt_ns": 0}
    return FILE_OPEN.pack({**values, "path": path, **fields})


def connect_record(**fields: Any) -> bytes:
    values = {
        **header(KIND_CONNECT),
        "family": 2,
        "port": 443,
        "address": b"\x01\2\3\4".ljust(16, b"\0"),
    }
    return CONNECT.pack({**values, **fields})


def decode(record: bytes) -> Any:
    return Decoder().decode(memoryview(record))


@given(
    flags=u16,
    who=u64,
    ids=u64,
    when=u64,
    sequence=u64,
    cpu=u32,
    comm=comms,
    inode=u64,
    device=u32,
    oflags=u32,
    granted=u32,
    mnt_ns=u32,
    path=paths,
)
def test_an_open_is_what_construct_put_in(
    flags: int,
    who: int,
    ids: int,
    when: int,
    sequence: int,
    cpu: int,
    comm: bytes,
    inode: int,
    device: int,
    oflags: int,
    granted: int,
    mnt_ns: int,
    path: bytes,
) -> None:
    record = open_record(
        path + b"\0",
        flags=flags,
        pid_tgid=who,
        uid_gid=ids,
        time=when,
        sequence=sequence,
        cpu=cpu,
        comm=comm.ljust(16, b"\0"),
        inode=inode,
        device=device,
        open_flags=oflags,
        granted=granted,
        mnt_ns=mnt_ns,
    )
    decoder = Decoder()
    clock = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    event = decoder.decode(memoryview(record))
    assert isinstance(event, FileOpen)
    assert abs(event.time_ns - when - clock) < 1_000_000_000
    assert (event.pid, event.tid, event.uid, event.gid) == (who >> 32, who & 0xFFFFFFFF, ids & 0xFFFFFFFF, ids >> 32)
    assert (event.cpu, event.sequence) == (cpu, sequence)
    assert (event.comm, event.path) == (comm, path)
    assert (event.open_flags, event.granted) == (oflags, granted)
    assert (event.device, event.inode) == ((device >> 20, device & 0xFFFFF), inode)
    assert (event.mnt_ns, event.unlinked) == (mnt_ns, bool(flags & FLAG_UNLINKED))
    assert (event.basename, event.truncated) == (bool(flags & FLAG_BASENAME), bool(flags & FLAG_TRUNCATED))
    assert (decoder.foreign, decoder.malformed, decoder.leaked) == (0, 0, 0)


@given(address=st.binary(min_size=16, max_size=16), port=u16, family=st.sampled_from([socket.AF_INET, socket.AF_INET6]))
@example(bytes(10) + b"\xff\xff\x7f\0\0\1", 443, socket.AF_INET6)
@example(bytes(16), 0, socket.AF_INET6)
def test_a_connect_is_what_ipaddress_makes_of_it(address: bytes, port: int, family: int) -> None:
    event = decode(connect_record(family=family, port=port, address=address))
    assert isinstance(event, Connect)
    assert (event.port, event.family) == (port, family)
    if family == socket.AF_INET:
        assert event.dst_ip == str(ipaddress.IPv4Address(address[:4]))
        assert not event.mapped
        return
    v6 = ipaddress.IPv6Address(address)
    assert event.mapped == (v6.ipv4_mapped is not None)
    assert ipaddress.ip_address(event.dst_ip) == (v6.ipv4_mapped or v6)


@given(st.one_of(st.binary(max_size=200), st.binary(max_size=200).map(lambda tail: struct.pack("=I", 8) + tail)))
def test_hostile_bytes_are_counted_or_decoded_never_raised(record: bytes) -> None:
    decoder = Decoder()
    event = decoder.decode(memoryview(record))
    assert (event is not None) + decoder.foreign + decoder.malformed == 1
    if event is not None:
        assert event.dst_ip if isinstance(event, Connect) else event.mode


@given(kind=st.one_of(u16, st.sampled_from([known.kind for known in KINDS])), size=st.integers(0, 160), filler=u8)
def test_every_length_of_every_kind(kind: int, size: int, filler: int) -> None:
    record = (struct.pack("=IH", SOURCE_LSM, kind) + bytes([filler]) * 160)[:size]
    decoder = Decoder()
    layout = next((known.layout for known in KINDS if known.kind == kind), None)
    whole = 1 << 30 if layout is None else layout.size + bool(layout.tail_name)  # of a path, its end at least
    assert (decoder.decode(memoryview(record)) is not None) == (size >= whole)
    assert decoder.malformed == (size < whole)


@pytest.mark.parametrize("source", [0, 1, 2, 3, 4, 5, 6, 7, 9, 0x08000000, 0xFFFFFFFF])
def test_records_of_others_are_counted_whatever_they_hold(source: int) -> None:
    decoder = Decoder()
    for rest in (b"", b"\1", bytes(4), open_record()[4:], b"\xff" * 5000):
        assert decoder.decode(memoryview(struct.pack("=I", source) + rest)) is None
    assert (decoder.foreign, decoder.malformed) == (5, 0)


@given(path=paths, tail=st.binary(max_size=40))
def test_a_byte_behind_the_nul_is_a_leak(path: bytes, tail: bytes) -> None:
    decoder = Decoder()
    event = decoder.decode(memoryview(open_record(path + b"\0" + tail)))
    assert isinstance(event, FileOpen)
    assert event.path == path
    assert decoder.leaked == any(tail)


@pytest.mark.parametrize(
    ("granted", "mode"), [(0, "-"), (1, "r"), (2, "w"), (3, "rw"), (0x4000 | 1, "r"), (~3 & 0xFFFF, "-")]
)
def test_mode_is_what_the_kernel_granted(granted: int, mode: str) -> None:
    """Not what open_flags asked for."""
    assert decode(open_record(granted=granted, open_flags=os.O_RDWR)).mode == mode


def test_the_device_is_that_of_stat() -> None:
    found = os.stat(__file__).st_dev
    packed = os.major(found) << 20 | os.minor(found)
    assert decode(open_record(device=packed)).st_dev == found


def test_time_follows_a_clock_that_is_set() -> None:
    decoder = Decoder()
    record = memoryview(connect_record(time=5_000_000_000))
    before = decoder.decode(record)
    decoder._clock -= 3_600_000_000_000  # as after the system's clock went forward an hour
    decoder.synchronise()
    after = decoder.decode(record)
    assert before is not None
    assert after is not None
    assert abs(before.time_ns - after.time_ns) < 1_000_000_000


@pytest.mark.parametrize("record", [open_record(), connect_record()], ids=["open", "connect"])
def test_events_are_frozen_and_have_slots(record: bytes) -> None:
    event = decode(record)
    with pytest.raises(AttributeError, match="does not change"):
        event.pid = 1
    assert not hasattr(event, "__dict__")
    same = type(event)(event.record, event.clock_ns)
    assert same == event
    assert {event: 1}[same] == 1
