"""bpf(2) that fails: what is tried again, how often, and what the error says."""

from __future__ import annotations

import ctypes
import errno

import pytest

from pylsm.loader import bpf as module
from pylsm.loader.attr import Cmd, MapCreateAttr
from pylsm.loader.bpf import RETRIES, bpf, bpf_errno
from pylsm.loader.errors import BpfError


def failing(monkeypatch: pytest.MonkeyPatch, *numbers: int) -> list[int]:
    """bpf(2) that fails with each errno in turn, then works; the commands it was given."""
    calls: list[int] = []
    left = list(numbers)

    def syscall(number: int, cmd: int, attr: int, size: int, *rest: int) -> int:
        calls.append(int(cmd))
        if left:
            ctypes.set_errno(left.pop(0))
            return -1
        return 7

    monkeypatch.setattr(module, "_syscall", syscall)
    return calls


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EINTR])
def test_an_interrupted_call_is_made_again(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    calls = failing(monkeypatch, *[number] * (RETRIES - 1))
    assert bpf_errno(Cmd.MAP_CREATE, MapCreateAttr()) == 7
    assert len(calls) == RETRIES


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EINTR])
def test_but_not_for_ever(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    calls = failing(monkeypatch, *[number] * 1000)
    with pytest.raises(BpfError, match=errno.errorcode[number]):
        bpf(Cmd.MAP_CREATE, MapCreateAttr(), "create map 'x'")
    assert len(calls) == RETRIES


def test_no_memory_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = failing(monkeypatch, errno.ENOMEM, errno.ENOMEM)
    with pytest.raises(BpfError, match=r"cannot create map 'x': BPF_MAP_CREATE: ENOMEM") as caught:
        bpf(Cmd.MAP_CREATE, MapCreateAttr(), "create map 'x'")
    assert len(calls) == 1
    assert "memory cgroup" in caught.value.hint
