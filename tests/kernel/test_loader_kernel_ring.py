"""A real ring buffer, filled by a program that is run on made-up packets."""

from __future__ import annotations

import os
import select
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from pylsm.asm import R0, R1, R2, R3, R4, R6, R7, R10, Asm, MapSpec, MapType, Program, u64
from pylsm.loader import Map, MapMismatchError, Object, RingBuffer, RingCorrupt

pytestmark = pytest.mark.root

SIZE = 65536
RING = MapSpec("events", MapType.RINGBUF, max_entries=SIZE)
COUNTS = MapSpec("counts", MapType.ARRAY, key=4, value=16, max_entries=1)  # next number, lost

#: Header of a record, bytes (BPF_RINGBUF_HDR_SZ).
HEADER = 8


def emitter(length: int, *, discard_odd: bool = False, wake: bool = True) -> Program:
    """Reserves a record of ``length`` bytes, numbers it (u64 at its start and its end), submits it; counts losses."""
    a = Asm("socket", name="emit")
    a.ld_map_value(R7, COUNTS)
    a.ld_map(R1, RING)
    a.mov(R2, length)
    a.mov(R3, 0)
    a.call("ringbuf_reserve", None, None, None)
    a.mov(R1, 1)
    with a.if_(R0, "==", 0):
        a.atomic_add(u64[R7 + 8], R1)
        a.exit_()
    a.mov(R6, R0)
    a.ldx(R1, u64[R7])
    a.mov(R2, R1)
    a.add(R2, 1)
    a.stx(u64[R7], R2)
    a.stx(u64[R6], R1)
    if length >= 16:
        a.stx(u64[R6 + (length - 8)], R1)
    a.mov(R2, 2 if wake else 1)  # BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP
    if discard_odd:
        a.and_(R1, 1)
        with a.if_(R1, "==", 1):
            a.mov(R1, R6)
            a.call("ringbuf_discard", None, None)
            a.mov(R0, 0)
            a.exit_()
    a.mov(R1, R6)
    a.call("ringbuf_submit", None, None)
    a.mov(R0, 0)
    a.exit_()
    return a.build()


class Producer:
    """The program, its maps and the ring's reader."""

    def __init__(self, length: int, *, discard_odd: bool = False, wake: bool = True, size: int = SIZE) -> None:
        self.object = Object([emitter(length, discard_odd=discard_odd, wake=wake)], maps=[RING.resized(size)])
        self.ring = RingBuffer(self.object.maps["events"])

    def emit(self, count: int) -> None:
        self.object.programs["emit"].test_run(repeat=count)

    @property
    def produced(self) -> int:
        return int(struct.unpack_from("=Q", self.object.maps["counts"].lookup(bytes(4)))[0])

    @property
    def lost(self) -> int:
        return int(struct.unpack_from("=Q", self.object.maps["counts"].lookup(bytes(4)), 8)[0])

    def __enter__(self) -> Producer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.ring.close()
        self.object.close()


@pytest.fixture
def numbered() -> Iterator[Producer]:
    with Producer(16) as producer:
        yield producer


def number(record: bytes | memoryview) -> int:
    return int(struct.unpack_from("=Q", record)[0])


@pytest.mark.parametrize("length", [8, 9, 16, 100, 4096, SIZE // 4])
def test_records_come_whole_once_and_in_order_round_and_round(length: int) -> None:
    """Many times round the ring, in batches that end anywhere."""
    step = HEADER + (length + 7 & ~7)
    with Producer(length) as producer:
        seen: list[bytes] = []
        emitted = 0
        batches = [1, 2, 3, 7, 20]
        while emitted * step < 5 * SIZE:
            count = min(batches[emitted % len(batches)], SIZE // step - 1)
            producer.emit(count)
            emitted += count
            assert producer.ring.pending == count * step
            assert producer.ring.drain(lambda view: seen.append(bytes(view))) == count
            assert producer.ring.pending == 0
        assert producer.lost == 0
    assert [number(record) for record in seen] == list(range(emitted))
    assert {len(record) for record in seen} == {length}
    if length >= 16:
        assert all(record[-8:] == record[:8] for record in seen), "the end of a record across the end of the ring"


def test_a_full_ring_loses_exactly_what_does_not_fit(numbered: Producer) -> None:
    fits = (SIZE - 1) // 24
    numbered.emit(fits + 500)
    assert numbered.lost == 500
    assert numbered.ring.pending == fits * 24
    assert [number(record) for record in numbered.ring.read()] == list(range(fits))
    numbered.emit(1)
    assert [number(record) for record in numbered.ring.read()] == [fits], "room again"


def test_discarded_records_are_passed_over_and_their_room_is_given_back() -> None:
    with Producer(16, discard_odd=True) as producer:
        for _ in range(4):
            producer.emit(2000)
            found = [number(record) for record in producer.ring.read()]
            assert [one % 2 for one in found] == [0] * 1000
            assert producer.ring.pending == 0
        assert producer.lost == 0
        producer.emit(1)
        producer.ring.read()
        producer.emit(1)  # an odd one alone: nothing to hand out, but room to give back
        assert producer.ring.drain(lambda view: None) == 0
        assert producer.ring.pending == 0


def test_spans_are_the_same_records(numbered: Producer) -> None:
    seen: list[int] = []

    def take(data: memoryview, spans: list[tuple[int, int]]) -> None:
        seen.extend(struct.unpack_from("=Q", data, start)[0] for start, length in spans if length == 16)

    for _ in range(10):
        numbered.emit(2000)
        assert numbered.ring.drain_spans(take) == 2000
    assert seen == list(range(20_000))


def test_a_limit(numbered: Producer) -> None:
    numbered.emit(2000)
    assert [number(record) for record in numbered.ring.read(3)] == [0, 1, 2]
    assert [number(record) for record in numbered.ring.read(1500)] == list(range(3, 1503))
    assert [number(record) for record in numbered.ring.read()] == list(range(1503, 2000))


@pytest.mark.parametrize("bad", [0, 1, 699, 1999])
def test_what_was_handed_out_when_the_consumer_raised_is_consumed_the_rest_comes_again(
    numbered: Producer, bad: int
) -> None:
    numbered.emit(2000)
    seen: list[int] = []

    def take(view: memoryview) -> None:
        seen.append(number(view))
        if seen[-1] == bad:
            raise ValueError("cannot digest this")

    with pytest.raises(ValueError, match="digest"):
        numbered.ring.drain(take)
    assert seen == list(range(bad + 1))
    numbered.ring.drain(take)
    assert seen == list(range(2000)), "nothing twice, nothing lost"
    assert numbered.ring.pending == 0


def test_a_batch_counts_as_consumed_when_its_consumer_raises(numbered: Producer) -> None:
    numbered.emit(100)

    def fail(data: memoryview, spans: list[tuple[int, int]]) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        numbered.ring.drain_spans(fail)
    assert numbered.ring.pending == 0


def test_a_drain_ends_although_its_consumer_makes_new_records(numbered: Producer) -> None:
    numbered.emit(10)
    seen: list[int] = []

    def feed(view: memoryview) -> None:
        seen.append(number(view))
        numbered.emit(1)

    assert numbered.ring.drain(feed) == 10
    assert seen == list(range(10))
    assert numbered.ring.pending == 10 * 24


def test_room_is_given_back_while_a_long_drain_goes_on(numbered: Producer) -> None:
    """A consumer that is slow on a full ring must not keep it full until the last record."""
    fits = (SIZE - 1) // 24
    numbered.emit(fits)
    pending: list[int] = []
    numbered.ring.drain(lambda view: pending.append(numbered.ring.pending))
    assert len(pending) == fits
    assert max(pending) <= SIZE
    assert pending[fits // 2] <= 3 * SIZE // 4


def test_waiting(numbered: Producer) -> None:
    ring = numbered.ring
    began = time.monotonic()
    assert ring.wait(0.05) is False
    assert time.monotonic() - began >= 0.04
    assert ring.wait(0) is False
    numbered.emit(1)
    assert ring.wait(0) is True
    ring.read()
    thread = threading.Timer(0.05, numbered.emit, [1])
    thread.start()
    assert ring.wait(10) is True
    thread.join()
    assert len(ring.read()) == 1


def test_no_record_is_slept_through() -> None:
    """Producer and consumer on their own, without a forced wake-up: each sleep has to be ended by the kernel's own."""
    count = 50_000
    a = Asm("raw_tp/sys_enter", name="echo")
    a.ldx(R2, u64[R1 + 8])
    with a.if_(R2, "==", 110 if os.uname().machine == "x86_64" else 173):  # getppid
        a.call("get_current_pid_tgid")
        a.rsh(R0, 32)
        a.stx(u64[R10 - 8], R0)
        a.ld_map(R1, RING)
        a.mov(R2, R10)
        a.add(R2, -8)
        a.mov(R3, 8)
        a.mov(R4, 0)
        a.call("ringbuf_output", None, None, None, None)
    a.mov(R0, 0)
    a.exit_()
    room = RING.resized(1 << 20)  # for all of them: none is lost, however slow the consumer
    code = f"import os\nfor _ in range({count}): os.getppid()\n"
    with Object([a.build()], maps=[room]) as made, RingBuffer(made.maps["events"]) as ring:
        made.attach()
        with subprocess.Popen([sys.executable, "-I", "-S", "-c", code]) as child:
            seen = 0

            def take(view: memoryview) -> None:
                nonlocal seen
                seen += number(view) == child.pid

            while seen < count:
                assert ring.wait(20), f"asleep with {seen} of {count} records"
                ring.drain(take)
        assert seen == count


def test_epoll(numbered: Producer) -> None:
    with select.epoll() as poll:
        poll.register(numbered.ring.fileno(), select.EPOLLIN)
        assert poll.poll(0) == []
        numbered.emit(3)
        assert poll.poll(5) == [(numbered.ring.fileno(), select.EPOLLIN)]
        numbered.ring.read()
        assert poll.poll(0) == []


def test_positions_that_contradict_each_other_are_noticed(numbered: Producer) -> None:
    """The consumer's page is writable to everybody who holds the ring."""
    numbered.emit(5)
    numbered.ring.read()
    numbered.ring._consumer[0] = 1 << 40
    with pytest.raises(RingCorrupt, match=f"consumer position {1 << 40}, producer position 120"):
        numbered.ring.drain(lambda view: None)
    numbered.ring._consumer[0] = 24
    assert [number(record) for record in numbered.ring.read()] == [1, 2, 3, 4]
    numbered.ring._consumer[0] = 8  # inside of a record
    numbered.emit(1)
    with pytest.raises(RingCorrupt) as caught:
        while numbered.ring.drain(lambda view: None) or True:
            numbered.ring._consumer[0] += 8
    assert caught.value.producer == 144


def test_the_data_cannot_be_written_from_here(numbered: Producer) -> None:
    assert numbered.ring.data.readonly
    numbered.emit(1)
    with pytest.raises(TypeError, match="read-only"):
        numbered.ring.drain(lambda view: view.__setitem__(0, 1))


def test_other_maps_are_refused() -> None:
    with Map.create(COUNTS) as map, pytest.raises(MapMismatchError, match="is no ring buffer"):
        RingBuffer(map)


def test_closing_leaves_no_descriptor_and_no_mapping() -> None:
    def mappings() -> int:
        with open("/proc/self/maps") as file:
            return file.read().count("bpf-map")

    before = (len(os.listdir("/proc/self/fd")), mappings())
    with Map.create(RING) as map:
        ring = RingBuffer(map)
        assert mappings() == before[1] + 2
        ring.close()
        ring.close()
        assert mappings() == before[1]
    assert (len(os.listdir("/proc/self/fd")), mappings()) == before
    with pytest.raises(ValueError, match="released"):
        ring.drain(lambda view: None)


def test_a_kept_view_keeps_its_memory_and_nothing_breaks(numbered: Producer) -> None:
    kept: list[memoryview] = []
    numbered.emit(1)
    numbered.ring.drain(kept.append)
    numbered.ring.close()
    assert number(kept[0]) == 0
    kept.clear()


@pytest.mark.skipif("PYLSM_VM" in os.environ, reason="an emulated machine has no speed")
def test_a_million_records_in_seconds() -> None:
    """The hot path: the figures themselves are tools/bench's; this guards the order of magnitude."""
    with Producer(56, wake=False, size=1 << 24) as producer:
        spent = 0.0
        total = 0
        unpack = struct.Struct("=QQIIQQQQ").unpack_from
        for _ in range(5):
            producer.emit(200_000)
            events: list[object] = []
            began = time.thread_time()
            total += producer.ring.drain(lambda view: events.append(unpack(view)))  # noqa: B023
            spent += time.thread_time() - began
            assert len(events) == 200_000
    assert total == 1_000_000
    assert spent < 5, f"{spent:.2f} s for a million records"
