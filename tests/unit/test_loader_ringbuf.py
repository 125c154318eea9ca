"""The ring walker on made-up rings: honest ones against a model, hostile ones against its promises."""

from __future__ import annotations

import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylsm.loader.errors import RingCorrupt
from pylsm.loader.ringbuf import BUSY, DISCARD, _after, _lock_fence, walk

SIZE = 4096


class Ring:
    """A ring as the kernel writes it, with its data mapped twice in a row."""

    def __init__(self, position: int = 0, size: int = SIZE) -> None:
        self.size = size
        self.data = bytearray(size)
        self.consumer = self.producer = position

    def reserve(self, length: int) -> int | None:
        """The position of a new record that is being written, None if the ring is full (bpf_ringbuf_reserve)."""
        step = 8 + length + 7 & ~7
        if self.producer + step - self.consumer > self.size - 1:
            return None
        position = self.producer
        self.set_header(position, length | BUSY)
        self.producer += step
        return position

    def set_header(self, position: int, header: int) -> None:
        struct.pack_into("=II", self.data, position % self.size, header, position // 4096)

    def commit(self, position: int, content: bytes, discard: bool = False) -> None:
        for index, byte in enumerate(content):
            self.data[(position + 8 + index) % self.size] = byte
        self.set_header(position, len(content) | (DISCARD if discard else 0))

    @property
    def words(self) -> memoryview:
        return memoryview(self.data).cast("I")

    def walk(self, budget: int = 1 << 62) -> tuple[list[bytes], int]:
        spans, position = walk(self.words, self.consumer, self.producer, self.size, budget)
        twice = bytes(self.data) * 2
        return [twice[start : start + length] for start, length in spans], position


RECORDS = st.lists(st.tuples(st.binary(max_size=600), st.sampled_from(["keep", "discard"])), max_size=40)


@given(start=st.integers(0, 1 << 40).map(lambda n: n * 8), records=RECORDS)
def test_finished_records_come_whole_and_in_order_across_the_end(start: int, records: list[tuple[bytes, str]]) -> None:
    ring = Ring(start)
    expected, seen = [], []
    for content, fate in records:
        position = ring.reserve(len(content))
        if position is None:  # full: the consumer catches up
            found, ring.consumer = ring.walk()
            seen += found
            assert ring.consumer == ring.producer
            position = ring.reserve(len(content))
            assert position is not None
        ring.commit(position, content, fate == "discard")
        if fate == "keep":
            expected.append(content)
    found, ring.consumer = ring.walk()
    assert seen + found == expected
    assert ring.consumer == ring.producer


@given(before=st.integers(0, 5), after=st.integers(0, 5))
def test_a_record_being_written_ends_the_walk_and_is_found_later(before: int, after: int) -> None:
    ring = Ring()
    for number in range(before):
        ring.commit(ring.reserve(8) or 0, struct.pack("=Q", number))
    busy = ring.reserve(8)
    assert busy is not None
    for number in range(after):
        ring.commit(ring.reserve(8) or 0, struct.pack("=Q", 100 + number))
    found, ring.consumer = ring.walk()
    assert [struct.unpack("=Q", one)[0] for one in found] == list(range(before))
    assert ring.consumer == busy
    ring.commit(busy, struct.pack("=Q", 50))
    found, ring.consumer = ring.walk()
    assert [struct.unpack("=Q", one)[0] for one in found] == [50, *range(100, 100 + after)]
    assert ring.consumer == ring.producer


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, SIZE - 16])
def test_every_length_that_fits(length: int) -> None:
    ring = Ring(SIZE - 8)
    position = ring.reserve(length)
    assert position is not None
    ring.commit(position, bytes(range(256)) * 16 if length > 256 else bytes(range(length)))
    ring.set_header(position, length)
    found, consumer = ring.walk()
    assert [len(one) for one in found] == [length]
    assert consumer == ring.producer


def test_an_empty_ring_has_nothing() -> None:
    assert Ring(8 * 1234).walk() == ([], 8 * 1234)


#: Words that look like headers often enough to lead a walk on.
WORDS = st.one_of(
    st.integers(0, 64),
    st.integers(0, 64).map(lambda length: length | DISCARD),
    st.sampled_from([BUSY, BUSY | DISCARD, DISCARD, 0xFFFFFFFF, DISCARD - 1, DISCARD - 8, 248, 255, 256, 257]),
    st.integers(0, 0xFFFFFFFF),
)


@given(
    words=st.lists(WORDS, max_size=64),
    consumer=st.integers(0, 40) | st.integers(0, 1 << 63),
    ahead=st.integers(0, 40).map(lambda n: n * 8) | st.integers(0, 300),
    budget=st.integers(0, 600),
)
def test_hostile_bytes_never_lead_outside(words: list[int], consumer: int, ahead: int, budget: int) -> None:
    """Whatever is in the ring: an answer within its bounds or a refusal, and never more steps than it has headers."""
    size = 256
    data = memoryview(struct.pack("=64I", *(words + [0] * 64)[:64])).cast("I")
    try:
        spans, position = walk(data, consumer, consumer + ahead, size, budget)
    except RingCorrupt as error:
        assert (error.consumer, error.producer) == (consumer, consumer + ahead)
        return
    assert consumer <= position <= consumer + ahead
    assert len(spans) <= size // 8
    for start, length in spans:
        assert 8 <= start <= size
        assert 0 <= length <= size - 8
        assert start + length <= 2 * size
    if position == consumer and ahead and budget:
        assert data[(consumer & size - 1) >> 2] & BUSY, "no progress, no refusal: an endless loop for the caller"


@given(length=st.integers(0, DISCARD - 1), flag=st.sampled_from([0, DISCARD]))
def test_a_length_beyond_the_producer_is_refused(length: int, flag: int) -> None:
    ring = Ring()
    position = ring.reserve(16)
    assert position == 0
    ring.set_header(0, length | flag)
    if 8 + length + 7 & ~7 <= 24:
        ring.walk()
    else:
        with pytest.raises(RingCorrupt, match=f"{length} bytes does not fit the ring of {SIZE} bytes") as caught:
            ring.walk()
        assert (caught.value.consumer, caught.value.producer) == (0, 24)


def test_sound_records_before_a_bad_header_are_not_lost_with_it() -> None:
    ring = Ring()
    ring.commit(ring.reserve(4) or 0, b"good")
    bad = ring.reserve(4)
    assert bad is not None
    ring.set_header(bad, 5000)
    found, ring.consumer = ring.walk()
    assert found == [b"good"]
    assert ring.consumer == bad
    with pytest.raises(RingCorrupt, match="5000 bytes"):
        ring.walk()


@pytest.mark.parametrize(
    ("consumer", "producer"),
    [(8, 0), (0, SIZE + 8), (4, 16), (0, 12), (1 << 63, 0)],
    ids=["behind", "too far", "consumer unaligned", "producer unaligned", "wrapped"],
)
def test_positions_that_contradict_each_other_are_refused(consumer: int, producer: int) -> None:
    with pytest.raises(RingCorrupt, match="contradict") as caught:
        walk(Ring().words, consumer, producer, SIZE)
    assert f"consumer position {consumer}, producer position {producer}" in str(caught.value)


@given(
    start=st.integers(0, 1 << 20).map(lambda n: n * 8), lengths=st.lists(st.integers(0, 200), min_size=1, max_size=12)
)
def test_the_position_behind_any_record_is_known(start: int, lengths: list[int]) -> None:
    """What `RingBuffer.drain` publishes when its consumer raises in the middle of a batch."""
    ring = Ring(start)
    ends = []
    for length in lengths:
        position = ring.reserve(length)
        assert position is not None
        ring.commit(position, bytes(length))
        ends.append(ring.producer)
    spans, _ = walk(ring.words, ring.consumer, ring.producer, SIZE)
    assert [_after(span, start, SIZE - 1) for span in spans] == ends


@pytest.mark.parametrize(
    ("machine", "needed"), [("x86_64", False), ("i686", False), ("aarch64", True), ("riscv64", True)]
)
def test_a_barrier_where_the_processor_reorders_loads(
    monkeypatch: pytest.MonkeyPatch, machine: str, needed: bool
) -> None:
    made = os.uname_result(("Linux", "host", "6.1.0", "#1", machine))
    monkeypatch.setattr(os, "uname", lambda: made)
    fence = _lock_fence()
    assert (fence is not None) is needed
    if fence is not None:
        fence()
        fence()  # leaves the lock as it found it, or this would hang


def test_a_budget_ends_the_batch_at_a_record() -> None:
    ring = Ring()
    for _ in range(10):
        ring.commit(ring.reserve(56) or 0, bytes(56))
    assert [len(walk(ring.words, 0, ring.producer, SIZE, budget)[0]) for budget in (1, 64, 65, 640)] == [1, 1, 2, 10]
