"""Pids as the user sees them, against real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from pylsm.audit import targets
from pylsm.audit.globs import Glob
from pylsm.audit.selection import Executable, Selection
from pylsm.audit.targets import NoSuchProcess

# A child and a grandchild that wait for the end of their standard input; the grandchild's pid is printed.
FAMILY = """
import os, sys
pid = os.fork()
if pid:
    with open("/proc/self/comm", "w") as comm:
        comm.write("a-name-too-long-for-comm")
    print(pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def family() -> Iterator[tuple[int, int]]:
    process = subprocess.Popen([sys.executable, "-c", FAMILY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    yield process.pid, int(process.stdout.readline())
    process.communicate()


def test_a_process_by_its_pid() -> None:
    me = targets.resolve(os.getpid())
    assert (me.pid, me.parent, me.uid) == (os.getpid(), os.getppid(), os.getuid())
    assert me.namespace_pids[0] == os.getpid()
    with open("/proc/self/comm", "rb") as file:
        assert me.comm == file.read()[:-1]


def test_a_thread_stands_for_its_process() -> None:
    ids: list[int] = []
    release = threading.Event()

    def thread() -> None:
        ids.append(threading.get_native_id())
        started.set()
        release.wait()

    started = threading.Event()
    worker = threading.Thread(target=thread)
    worker.start()
    started.wait()
    try:
        assert ids[0] != os.getpid()
        assert targets.resolve(ids[0]).pid == os.getpid()
    finally:
        release.set()
        worker.join()


def test_descendants_are_children_of_children_too(family: tuple[int, int]) -> None:
    child, grandchild = family
    assert {child, grandchild} <= targets.descendants([os.getpid()])
    assert targets.descendants([child]) == {child, grandchild}
    assert targets.descendants([grandchild]) == {grandchild}


def test_where_the_kernel_lists_no_children_all_processes_are_looked_at(
    family: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(pid: int) -> list[int]:
        raise FileNotFoundError

    by_lists = targets.descendants([family[0]])
    monkeypatch.setattr(targets, "_children", missing)
    assert targets.descendants([family[0]]) == by_lists == set(family)


def test_lists_that_changed_while_they_were_read_are_not_believed(
    family: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def disturbed(pid: int) -> list[int]:
        subprocess.run(["true"])
        return []

    monkeypatch.setattr(targets, "_children", disturbed)
    assert targets.descendants([family[0]]) == set(family)


def test_children_of_every_thread_are_found_and_zombies_are_not() -> None:
    code = """
import os, sys, threading
def start():
    pid = os.fork()
    if not pid:
        sys.stdin.read()
        os._exit(0)
    children.append(pid)
    done.wait()
children, done = [], threading.Event()
thread = threading.Thread(target=start)
thread.start()
while not children: pass
zombie = os.fork()
if not zombie:
    os._exit(0)
os.waitid(os.P_PID, zombie, os.WEXITED | os.WNOWAIT)
print(children[0], flush=True)
sys.stdin.read()
done.set()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdin
        child = int(process.stdout.readline())
        assert targets.descendants([process.pid]) == {process.pid, child}
        process.stdin.close()


@pytest.mark.parametrize("name", [b"plain", b"with space", b"a\nState:\tZ", b"back\\slash", b"\xff\x1b[", b"PPid:\t1"])
def test_names_that_processes_give_themselves(name: bytes) -> None:
    """/proc/PID/status holds them in the middle of the other fields."""
    with open("/proc/self/comm", "rb") as file:
        before = file.read()[:-1]
    try:
        with open("/proc/self/comm", "wb") as file:
            file.write(name)
        me = targets.resolve(os.getpid())
        assert (me.comm, me.pid, me.parent) == (name, os.getpid(), os.getppid())
    finally:
        with open("/proc/self/comm", "wb") as file:
            file.write(before)


def test_find_by_name_and_user(family: tuple[int, int]) -> None:
    child, grandchild = family

    def find(comm: str = "*", **wanted: Any) -> set[int]:
        return {process.pid for process in Selection(comms=[Glob(comm)], **wanted).find()}

    assert find("a-name-too-long-for-comm") == {child}
    assert find("a-name-*", uids=[os.getuid(), os.getuid() + 1]) == {child}
    assert find("a-name-too-long", uids=[os.getuid() + 1]) == set()
    assert grandchild not in find(exes=[Executable("/no/such")])
    assert find("a-name-*", exes=[Executable(os.readlink("/proc/self/exe"))]) == {child}
    mine = find(uids=[os.getuid()])
    assert grandchild in mine
    assert os.getpid() not in mine


def test_nobody_has_this_pid() -> None:
    with open("/proc/sys/kernel/pid_max") as file:
        nobody = int(file.read()) + 1
    with pytest.raises(NoSuchProcess, match=f"no process has pid {nobody}") as caught:
        targets.resolve(nobody)
    assert caught.value.hint


def test_a_zombie_is_nobody() -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    try:
        with pytest.raises(NoSuchProcess):
            targets.resolve(process.pid)
    finally:
        process.wait()
