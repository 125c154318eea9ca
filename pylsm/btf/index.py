"""Where each record of a BTF type section starts, without looking at each record.

BTF has no table of its types: the id of a type is how many records come before it, and the length of a record
is known only from its own header. Walking 126,000 records in Python costs more than the rest of a start-up.

The way round: of all words in the section, those with a non-zero *top byte* are nearly always the `info` words
(bits 24-30 are the kind, bit 31 the kind flag). Names, type ids, sizes and offsets are below 2^24, a limit of
the format for names (BTF_MAX_NAME_OFFSET) and of memory for the others. The few kinds whose body may hold
larger words (INT, ENUM, ENUM64, DECL_TAG, and STRUCT/UNION with bitfields: 4 in 100 records) are visited one
by one and their bodies blanked. What is left is a string of bytes, one a word, non-zero exactly where a record
is: counting gives ids, searching gives records, both at the speed of C.

Whether "nearly always" held is checked, for each stretch of the section: records are at least three words, so
two marks closer than that mean a word was mistaken for a record, and the section is then walked exactly; so it
is when the last record does not end with the section, and when what looks like a kind is none. A record whose
own length is damaged is noticed when somebody asks for it. Sections up to 64 KiB are walked in any case.
"""

from __future__ import annotations

import sys
from _bisect import bisect_right  # without the module in Python around it
from itertools import accumulate

from pylsm.btf.errors import BtfError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["BODY", "TypeIndex"]

# kind → (words after the three header words, words for each of vlen elements); include/uapi/linux/btf.h
BODY: dict[int, tuple[int, int]] = {
    1: (1, 0),  # INT: encoding
    2: (0, 0),  # PTR
    3: (3, 0),  # ARRAY: element, index, length
    4: (0, 3),  # STRUCT: name, type, offset
    5: (0, 3),  # UNION
    6: (0, 2),  # ENUM: name, value
    7: (0, 0),  # FWD
    8: (0, 0),  # TYPEDEF
    9: (0, 0),  # VOLATILE
    10: (0, 0),  # CONST
    11: (0, 0),  # RESTRICT
    12: (0, 0),  # FUNC (vlen holds the linkage)
    13: (0, 2),  # FUNC_PROTO: name, type
    14: (1, 0),  # VAR: linkage
    15: (0, 3),  # DATASEC: variable, offset, size
    16: (0, 0),  # FLOAT
    17: (1, 0),  # DECL_TAG: component index
    18: (0, 0),  # TYPE_TAG
    19: (0, 3),  # ENUM64: name, low, high
}

VLEN = 0xFFFFFF  # 16 bits are in use; the newest headers widen it to 24, which were zero before
KIND = 0x7F  # likewise 5 bits, widened to 7

_CHUNK = 1 << 15  # words looked at in one go: what was asked for is usually in the first
_BLOCKS = 32  # a chunk is cut in blocks that are counted apart, so that a question counts one block only
_BLOCK = _CHUNK // _BLOCKS
_MANY = 256  # located records after which a chunk's positions are kept
_EXACT_BELOW = 1 << 14  # words; smaller sections are walked
_TOP = 3 if sys.byteorder == "little" else 0  # the top byte of a word

# Words for each element in the body of a record that must be looked at, 0 for a body of one word, by top byte
# of the info word; -1 for a kind this reader does not know, -2 where the body has no large words.
_STEP = [-1] * 256
_STEP[0] = -2
for _kind, (_, _each) in BODY.items():
    _large = 0 if _kind in (1, 17) else _each if _kind in (6, 19) else -2
    _STEP[_kind] = _large
    _STEP[_kind | 0x80] = _each if _kind in (4, 5) else _large
_HARD = bytes([step > -2 for step in _STEP])
_ONE = b"\0" + b"\1" * 255


class TypeIndex:
    """Maps record numbers (0, 1, …) to word positions in the type section and back, lazily.

    Args:
        words: the type section as native 32-bit words.
        layout: body sizes in words of kinds newer than this reader, as in `BODY`.
        source: name of the BTF, for errors.
        exact: walk every record (True), never (False); None decides by size.
        find: as `bytes.find` of the section with both bounds, where its bytes can be searched without a copy.
    """

    __slots__ = (
        "_before",
        "_count",
        "_exact",
        "_find",
        "_marks",
        "_next",
        "_skip",
        "_source",
        "_tables",
        "_uses",
        "_words",
        "body",
    )

    def __init__(
        self,
        words: memoryview[int],
        *,
        layout: dict[int, tuple[int, int]] | None = None,
        source: str = "",
        exact: bool | None = None,
        find: Callable[[bytes, int, int], int] | None = None,
    ) -> None:
        self._words = words
        self._find = self._find_in_copy if find is None else find
        self._source = source
        self._exact = len(words) < _EXACT_BELOW if exact is None else exact
        self.body = {**layout, **BODY} if layout else BODY
        self._reset()

    def _reset(self) -> None:
        self._marks: list[bytes] = []  # for each chunk, one byte a word: top byte of info, or 0
        self._before: list[int] = []  # records before each block
        self._uses: list[int] = []  # how often a record of the chunk was located
        self._tables: list[Sequence[int] | None] = []  # positions of the records in the chunk
        self._count = 0
        self._next = 0  # exact: position of the record that the next chunk starts with
        self._skip = 0  # fast: words of the next chunk that belong to the last one's last body

    @property
    def exact(self) -> bool:
        """Whether the section is walked record by record."""
        return self._exact

    def count(self) -> int:
        """The number of records; scans what is left of the section."""
        while self._scan():
            pass
        return self._count

    def has(self, number: int) -> bool:
        """Whether there are more than `number` records; scans no further than needed to tell."""
        while self._count <= number:
            if not self._scan():
                return False
        return True

    def locate(self, number: int) -> int:
        """The word position of a record, or -1 when there are not that many."""
        if not self.has(number):
            return -1
        block = bisect_right(self._before, number) - 1
        rest = number - self._before[block]
        chunk = block // _BLOCKS
        table = self._tables[chunk]
        if table is None:
            uses = self._uses[chunk] = self._uses[chunk] + 1
            if uses <= _MANY:
                return self._select(block, rest)
            table = self._table(chunk)
        return table[number - self._before[chunk * _BLOCKS]]

    def _select(self, block: int, rest: int) -> int:
        # Halve the block until the wanted mark is alone.
        marks = self._marks[block // _BLOCKS]
        start = block % _BLOCKS * _BLOCK
        low, high = start, min(start + _BLOCK, len(marks))
        while high - low > 1:
            middle = (low + high) >> 1
            here = middle - low - marks.count(0, low, middle)
            if rest < here:
                high = middle
            else:
                rest -= here
                low = middle
        return block // _BLOCKS * _CHUNK + low - 1

    def _table(self, chunk: int) -> Sequence[int]:
        # Somebody walks through this chunk: remember all of its positions.
        from array import array
        from itertools import compress

        marks = self._marks[chunk]
        start = chunk * _CHUNK - 1
        table = array("I", compress(range(start, start + len(marks)), marks))
        self._tables[chunk] = table
        return table

    def starts(self, position: int) -> bool:
        """Whether a record starts at a word position."""
        chunk, at = divmod(position + 1, _CHUNK)
        while chunk >= len(self._marks):
            if not self._scan():
                return False
        marks = self._marks[chunk]
        return at < len(marks) and marks[at] != 0

    def number(self, position: int) -> int:
        """The number of the record that starts at a word position."""
        if not self.starts(position):
            raise self._error(position, "no record starts here")
        block, at = divmod(position + 1, _BLOCK)
        start = block % _BLOCKS * _BLOCK
        return self._before[block] + at - self._marks[block // _BLOCKS].count(0, start, start + at)

    def search(self, name_off: int, kind: int) -> int:
        """The position of the first record with this name offset and kind (-1: any kind), or -1."""
        whole = name_off.to_bytes(4, sys.byteorder)
        needle = whole
        if _TOP == 3:
            # bytes.find is fastest with a short needle that does not end in the commonest byte.
            short = whole.rstrip(b"\0")
            needle = short if len(short) >= 2 else whole
        words, find = self._words, self._find
        chunk = 0
        while chunk < len(self._marks) or self._scan():
            marks = self._marks[chunk]
            if kind >= 0 and kind not in marks and kind | 0x80 not in marks:
                chunk += 1
                continue
            first = chunk * _CHUNK
            # A record's name is the word before its info word.
            at, stop = max(first - 1, 0) * 4, (first + len(marks) - 1) * 4
            at = find(needle, at, stop)
            while at >= 0:
                if not at & 3:
                    position = at >> 2
                    mark = marks[position + 1 - first]
                    if mark and kind in (-1, mark & KIND) and words[position] == name_off:
                        return position
                at = find(needle, at + 1, stop)
            chunk += 1
        return -1

    def _find_in_copy(self, needle: bytes, start: int, stop: int) -> int:
        first = start >> 2
        at = self._words[first : stop >> 2].tobytes().find(needle, start - first * 4)
        return at if at < 0 else at + first * 4

    def search_any(self, name_offs: set[int], kind: int) -> int:
        """As `search` for any of several name offsets, looking at each record."""
        words = self._words
        number = 0
        while self.has(number):
            position = self.locate(number)
            if words[position] in name_offs and kind in (-1, words[position + 1] >> 24 & KIND):
                return position
            number += 1
        return -1

    def end(self, position: int) -> int:
        """The word position after a record.

        Raises:
            BtfError: the record runs past the section, or (on damaged BTF) is none.
        """
        words = self._words
        if position + 3 > len(words):
            raise self._error(position, f"a record needs 12 bytes, {(len(words) - position) * 4} are left")
        info = words[position + 1]
        kind = (info >> 24) & KIND
        shape = self.body.get(kind)
        if shape is None:
            raise self._error(position, f"unknown kind {kind}", hint="is this BTF from a newer kernel?")
        end = position + 3 + shape[0] + shape[1] * (info & VLEN)
        if end > len(words):
            raise self._error(
                position,
                f"record of kind {kind} with {info & VLEN} elements needs {(end - position) * 4} bytes, "
                f"{(len(words) - position) * 4} are left",
            )
        if not self._exact and end < len(words) and not self.starts(end):
            # Found by its mark, but its length disagrees with the marks: do not hand out a guess.
            raise self._error(position, f"record of kind {kind} does not end where the next one starts")
        return end

    def _error(self, position: int, message: str, hint: str = "") -> BtfError:
        return BtfError(message, source=self._source, section="type", offset=position * 4, hint=hint)

    def _scan(self) -> bool:
        """Look at one more chunk; False when there is none."""
        start = len(self._marks) * _CHUNK
        length = min(_CHUNK, len(self._words) - start)
        if length <= 0:
            return False
        marks = self._scan_exact(start, length) if self._exact else self._scan_fast(start, length)
        ones = marks.translate(_ONE)
        counts = [ones.count(1, low, low + _BLOCK) for low in range(0, length, _BLOCK)]
        total = sum(counts)
        if not self._exact and (not marks or not self._plausible(ones, total, start + length)):
            chunk = len(self._marks)
            self._exact = True
            self._reset()
            while len(self._marks) <= chunk:  # callers count on what they have seen to stay there
                self._scan()
            return True
        self._marks.append(marks)
        self._uses.append(0)
        self._tables.append(None)
        self._before += accumulate(counts[:-1], initial=self._count)
        self._count += total
        return True

    def _plausible(self, ones: bytes, total: int, end: int) -> bool:
        """Whether each mark of a chunk follows two words without one, as it does when all marks are records.

        A word taken for a record by mistake is the last or last but one of a body, so it is one or two words
        before the next mark.
        """
        lead = self._marks[-1][-2:].translate(_ONE) if self._marks else b"\0"
        if (lead + ones).count(b"\0\0\1") != total:
            return False
        if end < len(self._words):
            return True
        # The last record ends where the section does, unless something was cut off.
        at, start = ones.rfind(1), len(self._marks) * _CHUNK
        for marks in reversed(self._marks):
            if at >= 0:
                break
            start -= _CHUNK
            at = marks.translate(_ONE).rfind(1)
        if at < 0:
            return False
        info = self._words[start + at]
        fixed, each = BODY.get(info >> 24 & KIND, (0, 0))
        return start + at + 2 + fixed + each * (info & VLEN) == end

    def _scan_exact(self, start: int, length: int) -> bytes:
        words = self._words
        marks = bytearray(length)
        body = self.body
        position = self._next
        stop = start + length - 1
        total = len(words)
        while position < stop:
            info = words[position + 1]
            shape = body.get((info >> 24) & KIND)
            if shape is None:
                self.end(position)  # raises
                break
            marks[position + 1 - start] = info >> 24
            end = position + 3 + shape[0] + shape[1] * (info & VLEN)
            if end > total:
                self.end(position)  # raises
            position = end
        if start + length == total and position < total:
            self.end(position)  # one or two words are left: raises
        self._next = position
        return bytes(marks)

    def _scan_fast(self, start: int, length: int) -> bytes:
        """The marks of a chunk; b"" when the section is not of the ordinary make."""
        # A word that is taken for an info word makes others be skipped, so it must look like one all round.
        # What does not: the length of an array of 2^24 elements or more, or the offset of a member beyond
        # 2 MiB. Behind those come the next record's name and info, or the next member's name.
        words = self._words
        total = len(words)
        marks = bytearray(words[start : start + length].tobytes()[_TOP::4])
        skip = self._skip
        if skip:
            marks[:skip] = bytes(min(skip, length))
        hard = marks.translate(_HARD)
        after = skip
        at = hard.find(1, skip)
        while at >= 0:
            top = marks[at]
            step = _STEP[top]
            body = at + 2
            if start + body >= total:
                if start + body > total or step <= 0 or words[start + at] & VLEN:
                    return b""
                after = body
            elif step > 0:
                after = body + step * (words[start + at] & VLEN)
                if words[start + body] >> 24 if body >= length else marks[body]:
                    return b""  # no name of an enumerator, a member or the next record
                if top not in (0x84, 0x85) and words[start + at + 1] not in (1, 2, 4, 8):
                    return b""  # no size of an enum
            elif step == 0:
                after = body + 1
                if not _single(words[start + at], words[start + at + 1], words[start + body]):
                    return b""
            else:
                return b""
            # The next record must begin right there.
            if after + 1 < length:
                if not marks[after + 1]:
                    return b""
                marks[body:after] = bytes(after - body)
            else:
                info = start + after + 1
                if info < total:
                    if not words[info] >> 24:
                        return b""
                elif info != total + 1:
                    return b""
                if body < length:
                    marks[body:after] = bytes(min(after, length) - body)
            at = hard.find(1, after)
        self._skip = max(after - length, 0)
        return bytes(marks)


def _single(info: int, third: int, body: int) -> bool:
    """Whether three words can be those of an INT or a DECL_TAG."""
    if info & VLEN:
        return False
    if info >> 24 & KIND == 17:
        return body <= 0xFFFF or body == 0xFFFFFFFF
    return third in (1, 2, 4, 8, 16) and not body & 0xF000FF00
