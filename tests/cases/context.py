"""What is known of the process behind an event, and what processes hold when they are attached."""

from __future__ import annotations

import json
import os
import pwd
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from cases.cli import Running, pylsm
from cases.lab import Lab, Worker, checked, eventually, forked, libc
from pylsm.audit.events import Connect, Exec, FileOpen
from pylsm.audit.network import held_sockets, inside, listed_sockets
from pylsm.audit.session import Audit
from pylsm.errors import PylsmError
from pylsm.output import jsonl, text

CLONE_NEWNET = 0x40000000
UDP = socket.SOCK_DGRAM


@pytest.fixture(scope="module")
def context_audit(source: str) -> Iterator[Audit]:
    with Audit(source=source, context=True) as audit:
        yield audit


@pytest.fixture
def context(context_audit: Audit) -> Iterator[Lab]:
    lab = Lab(context_audit)
    lab.drain()
    yield lab
    lab.drain()


def send(address: str = "127.0.0.1", family: int = socket.AF_INET) -> None:
    with socket.socket(family, UDP) as sock, suppress(OSError):
        sock.connect((address, 9))


def test_of_the_process_that_was_attached(context: Lab) -> None:
    outcome = context.run(send)
    (event,) = outcome.connects
    found = event.context
    assert found is not None
    assert found.ppid == os.getpid()
    assert found.exe == os.fsencode(os.path.realpath(sys.executable))
    assert found.user == pwd.getpwuid(os.getuid()).pw_name
    assert found.net_ns == os.stat("/proc/self/ns/net").st_ino
    assert event.where == ("127.0.0.1", "lo", "loopback")


def test_of_children_and_of_what_they_execute(context: Lab) -> None:
    def work() -> int:
        child = forked(send)
        subprocess.run(["/bin/cat", "/dev/null"], check=True, stdin=subprocess.DEVNULL)
        return child

    outcome = context.run(work)
    (connect,) = outcome.connects
    assert connect.pid == outcome.result
    assert connect.context is not None and connect.context.ppid == outcome.pid
    assert connect.context.exe == os.fsencode(os.path.realpath(sys.executable))
    (exec_,) = [event for event in outcome.events if isinstance(event, Exec)]
    opens = [event for event in outcome.opens("/dev/null") if event.pid == exec_.pid and event.comm == b"cat"]
    assert opens
    for event in opens:
        assert event.context is not None
        assert (event.context.ppid, event.context.exe) == (outcome.pid, exec_.exe)
        assert event.context.cgroup_id == exec_.cgroup_id
    values = json.loads(jsonl.render_with_context(opens[0]))
    assert values["exe"] == os.path.realpath("/bin/cat") and values["ppid"] == outcome.pid
    assert "exe=" + os.path.realpath("/bin/cat") in text.render(opens[0]).split()
    assert jsonl.to_dict(opens[0]) == values
    assert json.loads(jsonl.render_with_context(exec_)) == jsonl.to_dict(exec_)


def test_another_user(context: Lab) -> None:
    def work() -> None:
        send()
        os.setuid(65534)
        send()

    first, second = context.run(work).connects
    assert first.context is not None and second.context is not None
    assert (first.context.user, second.context.user) == (pwd.getpwuid(os.getuid()).pw_name, pwd.getpwuid(65534).pw_name)


def test_without_being_asked_for_nothing_is_known(lab: Lab) -> None:
    (event,) = lab.run(send).connects
    assert (event.context, event.where) == (None, None)


@pytest.mark.parametrize(
    ("address", "scope"),
    [
        ("127.0.0.9", "loopback"),
        ("10.1.2.3", "private"),
        ("100.64.0.1", "private"),
        ("169.254.1.1", "link-local"),
        ("239.1.1.1", "multicast"),
        ("8.8.8.8", "public"),
        ("::1", "loopback"),
        ("fd00::1", "private"),
        ("fe80::1", "link-local"),
        ("ff02::1", "multicast"),
        ("2606:4700::1", "public"),
        ("::ffff:10.0.0.1", "private"),
    ],
)
def test_where_an_address_leads_to(context: Lab, address: str, scope: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    (event,) = context.run(lambda: send(address, family)).connects
    assert event.where is not None and event.where[2] == scope


# ---- what is there already -------------------------------------------------------------------------------------------


@contextmanager
def holding(work: Callable[[], Any]) -> Iterator[int]:
    """A process that has done some work, and keeps what came of it until it is killed."""
    read, write = os.pipe()

    def hold() -> None:
        kept = work()
        os.write(write, b"x")
        signal.pause()
        del kept

    worker = Worker(hold)
    worker.release()
    os.close(write)
    begun = os.read(read, 1)
    os.close(read)
    if not begun:
        worker.wait()  # which tells why
    try:
        yield worker.pid
    finally:
        os.kill(worker.pid, signal.SIGKILL)
        os.waitpid(worker.pid, 0)


def test_files_and_sockets_that_are_held(source: str, tmp_path: Path) -> None:
    (tmp_path / "read").write_text("x")

    def work() -> Any:
        gone = open(tmp_path / "gone", "w")  # noqa: SIM115
        (tmp_path / "gone").unlink()
        sock = socket.socket(type=UDP)
        sock.connect(("127.0.0.1", 9))
        six = socket.create_connection(server.getsockname()[:2])
        return open(tmp_path / "read"), open(tmp_path / "both", "w+"), gone, sock, six

    with (
        socket.create_server(("::1", 0), family=socket.AF_INET6) as server,
        Audit(source=source, context=True) as audit,
        holding(work) as pid,
    ):
        audit.trace_families([pid])
        before = audit.counts().recorded
        found = audit.already_open()
        assert audit.counts().recorded == before
        port = server.getsockname()[1]
    mine = [event for event in found if isinstance(event, FileOpen) and os.fsencode(tmp_path) in event.path]
    assert sorted((event.path.rpartition(b"/")[2], event.mode, event.unlinked) for event in mine) == [
        (b"both", "rw", False),
        (b"gone (deleted)", "w", True),
        (b"read", "r", False),
    ]
    there = os.stat(tmp_path / "read")
    read = next(event for event in mine if event.path.endswith(b"read"))
    assert (read.st_dev, read.inode, read.pid, read.uid) == (there.st_dev, there.st_ino, pid, os.getuid())
    connects = [event for event in found if isinstance(event, Connect) and event.pid == pid]
    assert sorted((event.dst_ip, event.port) for event in connects) == [("127.0.0.1", 9), ("::1", port)]
    for event in found:
        values = json.loads(jsonl.render(event))
        assert values["already_open"] is True
        assert (values["cpu"], values["sequence"]) == (-1, -1)
        assert "already_open" in text.render(event)
        assert event.context is not None


def test_sockets_of_another_network_namespace(source: str) -> None:
    def work() -> Any:
        checked(libc.unshare(CLONE_NEWNET))
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        sock = socket.socket(type=UDP)
        sock.connect(("127.0.0.1", 4242))
        listener = socket.create_server(("127.0.0.1", 0))
        return sock, listener, socket.create_connection(listener.getsockname())

    with Audit(source=source, context=True, events=["default", "listen"]) as audit, holding(work) as pid:
        net_ns = os.stat(f"/proc/{pid}/ns/net").st_ino
        assert net_ns != os.stat("/proc/self/ns/net").st_ino
        audit.trace_families([pid])
        found = [event for event in audit.already_open() if event.name in ("connect", "listen")]
    assert sorted(event.name for event in found) == ["connect", "connect", "listen"]
    assert [event.port for event in found if event.name == "listen"][0] in [event.port for event in found[1:]]  # type: ignore[attr-defined]  # noqa: RUF015
    for event in found:
        assert event.context is not None and event.context.net_ns == net_ns
        assert event.where is not None and event.where[1] == "lo"


def test_the_two_ways_to_list_sockets_agree() -> None:
    """A kernel may lack sock_diag; /proc has the same then."""
    with (
        socket.create_server(("::1", 0), family=socket.AF_INET6) as six,
        socket.create_server(("127.0.0.1", 0)) as four,
        socket.create_connection(six.getsockname()[:2]) as to_six,
        socket.create_connection(four.getsockname()) as to_four,
        socket.socket(type=UDP) as datagram,
    ):
        datagram.connect(("127.0.0.1", 9))
        mine = {os.fstat(sock.fileno()).st_ino for sock in (six, four, to_six, to_four, datagram)}
        listed = {held for held in listed_sockets("/proc/self") if held.inode in mine}
        assert {held.inode for held in listed} == mine
        try:
            asked = held_sockets()
        except PylsmError as error:
            assert "sock_diag" in str(error)  # a module that this kernel has not loaded
            return
        assert {held for held in asked if held.inode in mine} == listed


def test_a_namespace_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(PylsmError, match="network namespace 1 is gone"):
        inside(1, str(tmp_path / "net"), lambda: None)


def test_the_command_line_tells_first_what_is_held(tmp_path: Path) -> None:
    """Confined as it is: what is read of other processes is read before."""
    (tmp_path / "held").write_text("x")
    log = tmp_path / "log"
    with holding(lambda: (open(tmp_path / "held"),)) as pid:
        given = ("--already-open", "--context", "--format", "json", "--heartbeat", 1, "-o", log)
        running = Running("attach", "-p", pid, *given)
    status, _, err = running.finish()
    assert status == 0, err
    events = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    held = [event for event in events if event.get("already_open")]
    assert [event["path"] for event in held if str(tmp_path) in event["path"]] == [str(tmp_path / "held")]
    assert all(event["exe"] == os.path.realpath(sys.executable) for event in held)
    (last,) = [event for event in events if event["event"] == "exit"]
    assert last["signal"] == signal.SIGKILL and last["exe"] == os.path.realpath(sys.executable)
    assert pylsm("verify-log", tmp_path / "log").returncode == 0


def test_a_cgroup_made_after_the_attach(tmp_path: Path) -> None:
    """A container that starts meanwhile is known by its cgroup, which is looked up although the auditor is confined."""
    roots = [root for root in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified") if os.path.exists(f"{root}/cgroup.procs")]
    if not roots:
        pytest.skip("no cgroups of version 2 are mounted where pylsm looks for them")
    name = "docker-" + "ab" * 32 + ".scope"
    group = Path(roots[0], name)
    go, begin = os.pipe()
    with ExitStack() as stack:
        script = f"read x; mkdir {group}; echo $$ >{group}/cgroup.procs; cat {tmp_path}/file"
        (tmp_path / "file").write_text("")
        shell = subprocess.Popen(["sh", "-c", script], stdin=go)
        running = Running("attach", "-p", shell.pid, "--context", "--format", "json")
        stack.callback(lambda: group.exists() and group.rmdir())
        os.write(begin, b"\n")
        shell.wait()
        status, out, err = running.finish()
        assert eventually(lambda: not (group / "cgroup.procs").read_text())
    assert status == 0, err
    events = [json.loads(line) for line in out.splitlines()]
    (cat,) = [event for event in events if event["event"] == "open" and event["path"] == str(tmp_path / "file")]
    assert cat["container"] == "ab" * 32
