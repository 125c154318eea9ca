"""Which kinds of events are recorded; messages without connect, and what processes begin and end as."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cases.lab import (
    AT_FDCWD,
    MS_BIND,
    MS_PRIVATE,
    MS_REC,
    Lab,
    checked,
    forked,
    look,
    mount,
    private_mounts,
    syscall,
    touch,
)
from pylsm.asm import MapSpec, MapType
from pylsm.audit.events import (
    Bind,
    Bpf,
    Chmod,
    Event,
    Exec,
    Exit,
    Fork,
    Kill,
    Listen,
    Mkdir,
    Mmap,
    Module,
    Mount,
    Ptrace,
    Rename,
    Sendto,
    Unlink,
)
from pylsm.audit.session import Audit
from pylsm.loader import BpfError, Map

MSG_FASTOPEN = 0x20000000
INET, INET6, UDP, RAW = socket.AF_INET, socket.AF_INET6, socket.SOCK_DGRAM, socket.SOCK_RAW


@pytest.fixture(scope="module")
def kinds_audit(kinds_source: str) -> Iterator[Audit]:
    with Audit(source=kinds_source, events=["all"]) as audit:
        yield audit


@pytest.fixture
def kinds(kinds_audit: Audit) -> Iterator[Lab]:
    """Processes of which all kinds of events are recorded."""
    lab = Lab(kinds_audit)
    lab.drain()
    yield lab
    lab.drain()
    counts = kinds_audit.counts()
    assert (counts.leaked, counts.malformed, counts.foreign, counts.lost) == (0, 0, 0, 0)
    assert kinds_audit.family() == set()


def of(events: list[Event], kind: Any) -> list[Any]:
    return [event for event in events if type(event) is kind]


def _both() -> None:
    look("/etc/hostname")
    with socket.socket(type=UDP) as sock, suppress(OSError):
        sock.connect(("127.0.0.1", 9))


@pytest.mark.parametrize("chosen", [("connect",), ("open",), ("connect", "open")], ids=",".join)
def test_only_what_was_chosen_is_recorded(kinds_source: str, chosen: tuple[str, ...]) -> None:
    with Audit(source=kinds_source, events=chosen) as audit:
        assert (audit.events, audit.unseen) == (chosen, ())
        outcome = Lab(audit).run(_both)
        assert {event.name for event in outcome.events} == set(chosen)
        assert outcome.counts.recorded == len(outcome.events)


# ---- sendto ----------------------------------------------------------------------------------------------------------


def sent(outcome: Any) -> list[tuple[str, int, str]]:
    return [(e.dst_ip, e.port, e.protocol_name) for e in of(outcome.events, Sendto)]


def test_messages_are_recorded_once_a_destination(kinds: Lab) -> None:
    def work() -> None:
        with socket.socket(INET, UDP) as v4, socket.socket(INET6, UDP) as v6:
            for _ in range(3):
                v4.sendto(b"x", ("127.0.0.1", 9))
                v6.sendto(b"x", ("::1", 9))
            v4.sendto(b"x", ("127.0.0.1", 10))
            v4.sendmsg([b"x"], [], 0, ("127.0.0.2", 9))
            v6.sendto(b"x", ("::ffff:127.0.0.3", 9))

    outcome = kinds.run(work)
    assert sent(outcome) == [
        ("127.0.0.1", 9, "udp"),
        ("::1", 9, "udp"),
        ("127.0.0.1", 10, "udp"),
        ("127.0.0.2", 9, "udp"),
        ("127.0.0.3", 9, "udp"),
    ]
    assert [e.v4mapped for e in of(outcome.events, Sendto)] == [False, False, False, False, True]
    assert outcome.counts.deduplicated == 4
    assert outcome.counts.recorded == len(outcome.events)


def test_another_incarnation_sends_anew(kinds: Lab) -> None:
    def send() -> None:
        with socket.socket(INET, UDP) as sock:
            sock.sendto(b"x", ("127.0.0.1", 9))

    def work() -> list[int]:
        send()
        return [forked(send), forked(send)]

    outcome = kinds.run(work)
    assert [e.pid for e in of(outcome.events, Sendto)] == [outcome.pid, *outcome.result]


def test_a_connected_socket_sends_without_an_event(kinds: Lab) -> None:
    def work() -> None:
        with socket.socket(INET, UDP) as sock:
            sock.connect(("127.0.0.1", 9))
            for _ in range(3):
                with suppress(ConnectionRefusedError):
                    sock.send(b"x")
        left, right = socket.socketpair()
        left.send(b"x")
        right.send(b"x")

    before = kinds.audit.counts()
    outcome = kinds.run(work)
    assert sent(outcome) == []
    assert kinds.audit.counts().ignored == before.ignored


def test_tcp_fast_open_is_a_connect(kinds: Lab) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def work() -> None:
            for _ in range(2):
                with socket.socket() as sock:
                    sock.sendto(b"hello", MSG_FASTOPEN, ("127.0.0.1", port))
                    # From now on it is connected, and an address is not looked at.
                    sock.sendto(b"again", ("127.0.0.9", 9))

        outcome = kinds.run(work)
    events = of(outcome.events, Sendto)
    assert [(e.dst_ip, e.port, e.protocol_name, e.fastopen) for e in events] == [("127.0.0.1", port, "tcp", True)] * 2
    assert outcome.counts.ignored == 2


def test_raw_sockets(kinds: Lab) -> None:
    def work() -> None:
        with socket.socket(INET, RAW, socket.IPPROTO_ICMP) as v4:
            v4.sendto(bytes(8), ("127.0.0.1", 0))
        with socket.socket(INET6, RAW, 58) as v6:
            v6.sendto(bytes(8), ("::1", 0))

    assert sent(kinds.run(work)) == [("127.0.0.1", 0, "icmp"), ("::1", 0, "icmpv6")]


def test_an_address_without_a_family_is_sent_to(kinds: Lab) -> None:
    """UDP over IPv4 takes AF_UNSPEC for AF_INET: an address must not be hidden by that."""

    def work() -> bytes:
        with socket.socket(INET, UDP) as receiver, socket.socket(INET, UDP) as sender:
            receiver.bind(("127.0.0.1", 0))
            receiver.settimeout(10)
            port = receiver.getsockname()[1]
            address = struct.pack("=H", 0) + struct.pack(">H", port) + b"\x7f\0\0\1" + bytes(8)
            libc = ctypes.CDLL(None, use_errno=True)
            assert libc.sendto(sender.fileno(), b"hidden", 6, 0, address, len(address)) == 6, ctypes.get_errno()
            return receiver.recv(100) + str(port).encode()

    outcome = kinds.run(work)
    assert outcome.result.startswith(b"hidden")
    assert sent(outcome) == [("127.0.0.1", int(outcome.result[6:]), "udp")]


def test_addresses_of_others_are_ignored(kinds: Lab, tmp_path: Path) -> None:
    def work() -> None:
        with socket.socket(socket.AF_UNIX, UDP) as receiver, socket.socket(socket.AF_UNIX, UDP) as sender:
            receiver.bind(str(tmp_path / "socket"))
            sender.sendto(b"x", str(tmp_path / "socket"))
        with socket.socket(INET, UDP) as sock:
            short = struct.pack("=HHI", INET, 0, 0)
            libc = ctypes.CDLL(None, use_errno=True)
            assert libc.sendto(sock.fileno(), b"x", 1, 0, short, len(short)) == -1
            assert ctypes.get_errno() == errno.EINVAL

    outcome = kinds.run(work)
    assert sent(outcome) == []
    assert outcome.counts.ignored == 3  # one of them the bind


# ---- exec, exit, fork ------------------------------------------------------------------------------------------------


def test_a_program_with_its_arguments(kinds: Lab) -> None:
    arguments = ["/bin/sh", "-c", "exit 7", "a b", "", "\udcff\x1b"]
    outcome = kinds.run(lambda: subprocess.run(arguments, check=False).returncode)
    assert outcome.result == 7
    (event,) = of(outcome.events, Exec)
    assert event.argv == tuple(map(os.fsencode, arguments))
    assert event.path == event.exe == os.path.realpath("/bin/sh").encode()
    assert event.interpreter is None
    assert event.ppid == outcome.pid
    assert (event.uid, event.euid, event.flags) == (os.getuid(), os.geteuid(), ())
    assert event.mnt_ns == os.stat("/proc/self/ns/mnt").st_ino
    assert event.net_ns == os.stat("/proc/self/ns/net").st_ino
    ended = {e.pid: e for e in of(outcome.events, Exit)}
    assert (ended[event.pid].status, ended[event.pid].signal) == (7, None)
    assert (ended[outcome.pid].status, ended[outcome.pid].signal) == (0, None)
    assert 0 < ended[event.pid].duration_ns < ended[outcome.pid].duration_ns
    assert outcome.counts.recorded == len(outcome.events)
    (fork,) = of(outcome.events, Fork)
    assert (fork.pid, fork.child_pid, fork.child_ppid) == (outcome.pid, event.pid, outcome.pid)


def test_a_script_and_its_interpreter(kinds: Lab, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh -e\nexit 0\n")
    script.chmod(0o755)

    def work() -> None:
        os.chdir(tmp_path)
        subprocess.run(["./script", "x"], check=True)

    (event,) = of(kinds.run(work).events, Exec)
    assert (event.path, event.interpreter) == (b"./script", b"/bin/sh")
    assert event.exe == os.path.realpath("/bin/sh").encode()
    assert event.argv == (b"/bin/sh", b"-e", b"./script", b"x")


def test_a_program_that_cannot_be_executed_is_none(kinds: Lab, tmp_path: Path) -> None:
    (tmp_path / "nothing").write_text("no program")
    (tmp_path / "nothing").chmod(0o755)

    def work() -> None:
        with suppress(OSError):
            os.execv(tmp_path / "nothing", ["nothing"])

    assert of(kinds.run(work).events, Exec) == []


def test_a_program_deep_below(kinds: Lab, tmp_path: Path) -> None:
    """More components than one run of the program passes."""
    base = tmp_path
    for _ in range(60):
        base /= "d"
    base.mkdir(parents=True)
    program = base / "true"
    program.write_bytes(Path("/bin/true").read_bytes())
    program.chmod(0o755)
    (event,) = of(kinds.run(lambda: subprocess.run([program], check=True)).events, Exec)
    assert event.path == os.fsencode(program.resolve())
    assert event.flags == ()


def test_more_arguments_than_there_is_room(kinds: Lab) -> None:
    arguments = ["/bin/true", *(["x" * 99] * 100)]
    (event,) = of(kinds.run(lambda: subprocess.run(arguments, check=True)).events, Exec)
    assert event.flags == ("arguments_missing",)
    assert b"\0".join(event.argv) == b"\0".join(map(str.encode, arguments))[: len(b"\0".join(event.argv))]
    assert len(b"\0".join(event.argv)) > 4000


def test_a_program_in_memory(kinds: Lab) -> None:
    def work() -> int:
        memory = os.memfd_create("nameless", 0)
        os.write(memory, Path("/bin/true").read_bytes())
        return subprocess.run([f"/proc/self/fd/{memory}"], pass_fds=[memory], check=True).returncode

    (event,) = of(kinds.run(work).events, Exec)
    assert event.exe == b"/memfd:nameless (deleted)"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1])
def test_a_process_that_a_signal_ends(kinds: Lab, number: int) -> None:
    def work() -> int:
        pid = os.fork()
        if not pid:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            time.sleep(10)
        return pid if os.waitpid(pid, 0)[1] & 0x7F == number else 0

    outcome = kinds.run(work)
    (event,) = [e for e in of(outcome.events, Exit) if e.pid == outcome.result]
    assert (event.status, event.signal) == (None, number)


def test_threads_are_no_processes(kinds: Lab) -> None:
    """A process ends with its last thread, whatever thread that is."""

    def work() -> int:
        pid = os.fork()
        if not pid:

            def end() -> None:
                time.sleep(0.2)
                os._exit(5)

            threading.Thread(target=end).start()
            for _ in range(3):
                threading.Thread(target=lambda: None).start()
            ctypes.CDLL(None).syscall(60 if os.uname().machine == "x86_64" else 93, 9)  # of the first thread alone
        return pid if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5 else 0

    outcome = kinds.run(work)
    assert outcome.result
    assert sorted(e.pid for e in of(outcome.events, Exit)) == sorted([outcome.pid, outcome.result])
    assert [e.status for e in of(outcome.events, Exit) if e.pid == outcome.result] == [5]
    assert [e.child_pid for e in of(outcome.events, Fork)] == [outcome.result]


def test_an_exec_by_a_thread_that_is_not_the_first(kinds: Lab) -> None:
    code = "import os, threading; threading.Thread(target=lambda: os.execv('/bin/true', ['true', 'x'])).start()"
    outcome = kinds.run(lambda: subprocess.run([sys.executable, "-c", code], check=True))
    first, second = of(outcome.events, Exec)
    assert second.argv == (b"true", b"x")
    assert first.pid == second.pid == second.tid
    assert [e.status for e in of(outcome.events, Exit) if e.pid == first.pid] == [0]


def test_a_bomb_of_processes_is_all_accounted_for(kinds: Lab) -> None:
    def work() -> None:
        for _ in range(100):
            forked(lambda: None)

    outcome = kinds.run(work)
    assert len(of(outcome.events, Fork)) == 100
    assert len(of(outcome.events, Exit)) == 101
    assert outcome.counts.recorded == len(outcome.events)


# ---- what is recorded only when it is asked for ----------------------------------------------------------------------


def seen(kinds: Lab, kind: type[Event]) -> None:
    """Skip what this source is known not to record."""
    if kind.name in kinds.audit.unseen:
        assert kinds.audit.source.name == "raw_tracepoint"
        pytest.skip(f"{kinds.audit.source.name} sees no {kind.name}, as docs/events.md says")


def test_sockets_that_are_bound_and_listen(kinds: Lab) -> None:
    def work() -> tuple[int, int]:
        with socket.socket() as v4, socket.socket(INET6) as v6:
            v4.bind(("127.0.0.1", 0))
            v4.listen(7)
            v6.bind(("::", 0))
            v6.listen(0)
            return v4.getsockname()[1], v6.getsockname()[1]

    outcome = kinds.run(work)
    assert [(e.dst_ip, e.port, e.family) for e in of(outcome.events, Bind)] == [
        ("127.0.0.1", 0, INET),
        ("::", 0, INET6),
    ]
    ports = outcome.result
    assert [(e.dst_ip, e.port, e.family, e.backlog) for e in of(outcome.events, Listen)] == [
        ("127.0.0.1", ports[0], INET, 7),
        ("::", ports[1], INET6, 0),
    ]


def test_binding_without_a_family(kinds: Lab) -> None:
    """IPv4 takes AF_UNSPEC and the address of all zeros for its own."""

    def work() -> int:
        with socket.socket() as sock:
            libc = ctypes.CDLL(None, use_errno=True)
            assert libc.bind(sock.fileno(), bytes(16), 16) == 0
            return int(sock.getsockname()[1])

    outcome = kinds.run(work)
    assert outcome.result
    assert [(e.dst_ip, e.family) for e in of(outcome.events, Bind)] == [("0.0.0.0", INET)]


def test_other_sockets_bind_and_listen_unrecorded(kinds: Lab, tmp_path: Path) -> None:
    def work() -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(tmp_path / "socket"))
            sock.listen()

    outcome = kinds.run(work)
    assert of(outcome.events, Bind) == of(outcome.events, Listen) == []
    assert outcome.counts.ignored == 2


def test_names_that_go_come_and_change(kinds: Lab, tmp_path: Path) -> None:
    seen(kinds, Unlink)
    os.chdir(tmp_path)

    def work() -> None:
        os.umask(0o022)
        os.mkdir("made", 0o750)
        Path("made/file").write_text("")
        os.chmod("made/file", 0o4711)
        with open("made/file") as file:
            os.fchmod(file.fileno(), 0o600)
        os.rename("made/file", "the other")
        os.unlink("the other")
        os.rmdir("made")

    outcome = kinds.run(work)
    base = os.fsencode(tmp_path)
    assert [(e.path, e.permissions) for e in of(outcome.events, Mkdir)] == [(base + b"/made", "0750")]
    assert [(e.path, e.permissions) for e in of(outcome.events, Chmod)] == [
        (base + b"/made/file", "4711"),
        (base + b"/made/file", "0600"),
    ]
    assert [(e.path, e.new_path) for e in of(outcome.events, Rename)] == [(base + b"/made/file", base + b"/the other")]
    assert [(e.path, e.directory) for e in of(outcome.events, Unlink)] == [
        (base + b"/the other", False),
        (base + b"/made", True),
    ]
    assert all(e.flags in ((), ("directory",)) for e in outcome.events if isinstance(e, (Mkdir, Chmod, Rename, Unlink)))
    assert outcome.counts.recorded == len(outcome.events)


def test_long_names_on_both_sides(kinds: Lab, tmp_path: Path) -> None:
    """Each of the paths takes more steps than one run may have, and both fit one record."""
    seen(kinds, Rename)
    deep = [tmp_path / name for name in ("one", "two")]
    for base in deep:
        base.joinpath(*["d" * 60] * 50).mkdir(parents=True)

    def work() -> None:
        for base in deep:
            here = os.open(base, os.O_PATH)
            for _ in range(50):
                here = os.open("d" * 60, os.O_PATH, dir_fd=here)
            ends.append(here)
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=ends[0]))
        os.rename("file", "other", src_dir_fd=ends[0], dst_dir_fd=ends[1])

    ends: list[int] = []
    (event,) = of(kinds.run(work).events, Rename)
    between = os.fsencode("/".join(["d" * 60] * 50))
    assert event.path == os.fsencode(deep[0]) + b"/" + between + b"/file"
    assert event.new_path == os.fsencode(deep[1]) + b"/" + between + b"/other"
    assert event.flags == ()


def test_what_is_not_done_is_an_attempt_all_the_same(kinds: Lab, tmp_path: Path) -> None:
    seen(kinds, Unlink)
    (tmp_path / "full").mkdir()
    touch(tmp_path / "full" / "file")

    def work() -> None:
        with suppress(OSError):
            os.rmdir(tmp_path / "full")
        with suppress(OSError):
            os.unlink(tmp_path / "nothing")

    assert [e.path for e in of(kinds.run(work).events, Unlink)] == [os.fsencode(tmp_path / "full")]


def test_memory_that_can_be_executed(kinds: Lab, tmp_path: Path) -> None:
    seen(kinds, Mmap)
    touch(tmp_path / "code")
    (tmp_path / "code").write_bytes(bytes(4096))

    def work() -> None:
        with open(tmp_path / "code", "rb") as file:
            mmap.mmap(file.fileno(), 4096, mmap.MAP_PRIVATE, mmap.PROT_READ)
            mmap.mmap(file.fileno(), 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)
        mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)

    events = of(kinds.run(work).events, Mmap)
    assert [(e.path, e.protection) for e in events] == [(os.fsencode(tmp_path / "code"), "r-x"), (b"", "rwx")]


def test_signals(kinds: Lab) -> None:
    seen(kinds, Kill)

    def work() -> int:
        pid = os.fork()
        if not pid:
            time.sleep(60)
        os.kill(pid, 0)
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
        return pid

    outcome = kinds.run(work)
    assert [(e.pid, e.target_pid, e.signal_number) for e in of(outcome.events, Kill)] == [
        (outcome.pid, outcome.result, 0),
        (outcome.pid, outcome.result, signal.SIGTERM),
    ]


def test_looking_into_another_process(kinds: Lab) -> None:
    seen(kinds, Ptrace)

    def work() -> int:
        pid = os.fork()
        if not pid:
            time.sleep(60)
        Path(f"/proc/{pid}/environ").read_bytes()  # /proc is read, no more
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.ptrace(16, pid, None, None) == 0  # PTRACE_ATTACH
        os.waitpid(pid, 0)
        libc.ptrace(8, pid, None, None)  # PTRACE_KILL
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return pid

    outcome = kinds.run(work)
    assert [(e.pid, e.target_pid) for e in of(outcome.events, Ptrace)] == [(outcome.pid, outcome.result)]


def test_mounts(kinds: Lab, tmp_path: Path) -> None:
    seen(kinds, Mount)

    def work() -> None:
        private_mounts()
        mount("tmpfs", "a source", str(tmp_path))
        mount("none", str(tmp_path), "/mnt", MS_BIND)
        fsopen, fsconfig, fsmount, move_mount = 430, 431, 432, 429  # the same on all architectures
        context = checked(syscall(fsopen, b"tmpfs", 0))
        checked(syscall(fsconfig, context, 1, b"source", b"another", 0))  # FSCONFIG_SET_STRING
        checked(syscall(fsconfig, context, 6, None, None, 0))  # FSCONFIG_CMD_CREATE
        made = checked(syscall(fsmount, context, 0, 0))
        checked(syscall(move_mount, made, b"", AT_FDCWD, os.fsencode(tmp_path), 4))  # MOVE_MOUNT_F_EMPTY_PATH

    events = of(kinds.run(work).events, Mount)
    path = os.fsencode(tmp_path)
    assert [(e.path, e.source, e.fstype, e.mount_flags) for e in events] == [
        (b"/", b"none", b"", MS_REC | MS_PRIVATE),
        (path, b"a source", b"tmpfs", 0),
        (b"/mnt", path, b"none", MS_BIND),
        (path, b"another", b"tmpfs", 0),
    ]


def test_a_module_that_is_asked_for(kinds: Lab) -> None:
    if kinds.audit.source.name == "raw_tracepoint":
        pytest.skip("raw_tracepoint sees modules that are loaded, not those that are asked for")

    def work() -> None:
        for family in range(1, 45):
            with suppress(OSError):
                socket.socket(family, socket.SOCK_DGRAM).close()

    events = of(kinds.run(work).events, Module)
    names = {event.module_name for event in events}
    assert names and all(re.fullmatch(rb"net-pf-\d+", name.partition(b"-proto")[0]) for name in names)
    assert all(event.requested for event in events)


def test_calls_of_bpf(kinds: Lab) -> None:
    def work() -> None:
        with suppress(BpfError):
            Map.create(MapSpec("made", MapType.ARRAY, key=4, value=4, max_entries=1)).close()

    assert of(kinds.run(work).events, Bpf)[0].command in ("map_create", "btf_load")
