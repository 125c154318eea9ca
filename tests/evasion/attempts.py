"""Programs that try to open a file or to connect unseen: each does it and says what must have been seen.

What a case returns is a list of what the audit has to show, ("open", path), ("mode", mode, path) or ("connect" or
"sendto", address, port), as often as it has to show it. `ATTEMPTS` names each case, and says for each backend that does
not see it why.
"""

from __future__ import annotations

import array
import ctypes
import mmap
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple, Union

from cases.connects import INET, INET6, TCP, UDP, connect, in4, in6
from cases.lab import (
    AT_FDCWD,
    CLONE_NEWPID,
    CONNECT,
    NAME_TO_HANDLE_AT,
    OPEN_BY_HANDLE_AT,
    OPENAT,
    OPENAT2,
    X86_64,
    checked,
    fork_as,
    forked,
    libc,
    look,
    syscall,
    touch,
)

from evasion.raw import (
    ACCT,
    CLONE,
    CLONE3,
    FANOTIFY_INIT,
    FANOTIFY_MARK,
    MQ_OPEN,
    MQ_UNLINK,
    PIDFD_GETFD,
    POLLED,
    SENDMMSG,
    WORKER,
    Missing,
    burst,
    compat_connect,
    compat_open,
    need,
    uring,
)

__all__ = ["ATTEMPTS", "BURST", "Attempt", "Seen", "accomplice"]

Seen = Union[tuple[str, bytes], tuple[str, str, int], tuple[str, str, str]]
BURST = 10_000
PORT = 4321
LOOPBACK = "127.0.0.1"
SIGCHLD = 17
CLONE_PARENT, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWUSER = 0x8000, 0x40000000, 0x20000, 0x10000000
MSG_FASTOPEN = 0x20000000

SYSCALLS = "raw_tracepoint"
NO_URING = {SYSCALLS: "io_uring makes no system call for it"}
NO_COMPAT = {SYSCALLS: "32-bit system calls have other numbers, which are not looked at"}
NO_EXEC = {SYSCALLS: "execve opens it inside the kernel; `exec` names the program"}
EVERYONE = ("lsm", "fentry", "kprobe", SYSCALLS)
STRANGER = dict.fromkeys(EVERYONE, "who opened it is not traced")
NO_IP = dict.fromkeys(EVERYONE, "no IP: connects within the machine are not recorded")


class Attempt(NamedTuple):
    """A case.

    Attributes:
        group: of the table.
        name: what is tried.
        work: does it, below a directory; what must be seen of it.
        unseen: backend → why it does not see it.
    """

    group: str
    name: str
    work: Callable[[str], list[Seen]]
    unseen: dict[str, str]


ATTEMPTS: list[Attempt] = []


def attempt(
    group: str, name: str, unseen: dict[str, str] | None = None
) -> Callable[[Callable[[str], list[Seen]]], object]:
    def add(work: Callable[[str], list[Seen]]) -> object:
        ATTEMPTS.append(Attempt(group, name, work, unseen or {}))
        return work

    return add


def opened(*paths: str | bytes) -> list[Seen]:
    return [("open", os.fsencode(path)) for path in paths]


def connected(port: int = PORT, address: str = LOOPBACK) -> list[Seen]:
    return [("connect", address, port)]


def sent(port: int = PORT) -> list[Seen]:
    return [("sendto", LOOPBACK, port)]


def in_child(pid: int, work: Callable[[], object]) -> None:
    """The two sides of a raw fork: nothing of Python's own bookkeeping in the child."""
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    os.waitpid(pid, 0x40000000)  # __WALL


@contextmanager
def accomplice(directory: str) -> Iterator[None]:
    """A process that is not traced: opens the file "theirs" for whoever connects to its socket, and passes it on."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"\0{directory}")
    listener.listen()
    pid = os.fork()
    if not pid:
        try:
            fd = os.open(f"{directory}/theirs", os.O_RDWR | os.O_CREAT, 0o600)
            while True:
                sock = listener.accept()[0]
                rights = array.array("i", [fd])
                sock.sendmsg([b"%d %d" % (os.getpid(), fd)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        finally:
            os._exit(1)
    listener.close()
    try:
        yield
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def passed(directory: str) -> tuple[int, int, int]:
    """Ask the accomplice: its pid, its descriptor of the file, and the one that came from it."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(f"\0{directory}")
        text, control, _, _ = sock.recvmsg(64, 64)
    pid, theirs = map(int, text.split())
    return pid, theirs, struct.unpack("=i", control[0][2][:4])[0]


# ---- processes -------------------------------------------------------------------------------------------------------


@attempt("processes", f"{BURST} children in a burst, by vfork, each opens first of all")
def _(d: str) -> list[Seen]:
    burst(os.fsencode(f"{d}/b"), BURST)
    return opened(f"{d}/b") * BURST


@attempt("processes", "clone without flags")
def _(d: str) -> list[Seen]:
    in_child(need(syscall(CLONE, SIGCHLD, 0, 0, 0, 0), "clone"), lambda: touch(f"{d}/x"))
    return opened(f"{d}/x")


@attempt("processes", "clone3")
def _(d: str) -> list[Seen]:
    arguments = struct.pack("=8Q", 0, 0, 0, 0, SIGCHLD, 0, 0, 0)
    in_child(need(syscall(CLONE3, arguments, len(arguments)), "clone3"), lambda: touch(f"{d}/x"))
    return opened(f"{d}/x")


@attempt("processes", "CLONE_PARENT: the child becomes a sibling, its parent is not traced")
def _(d: str) -> list[Seen]:
    done, end = os.pipe()
    if checked(syscall(CLONE, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0)) == 0:
        touch(f"{d}/x")
        os._exit(0)
    os.close(end)
    os.read(done, 1)  # its end: the child has ended
    return opened(f"{d}/x")


@attempt("processes", "CLONE_THREAD: a second thread")
def _(d: str) -> list[Seen]:
    thread = threading.Thread(target=touch, args=(f"{d}/x",))
    thread.start()
    thread.join()
    return opened(f"{d}/x")


@attempt("processes", "double fork, setsid, the parents gone")
def _(d: str) -> list[Seen]:
    done, end = os.pipe()

    def daemon() -> None:
        os.setsid()
        parent = os.getpid()
        if os.fork() == 0:
            while os.getppid() == parent:
                time.sleep(0.01)
            touch(f"{d}/x")
            os._exit(0)

    forked(daemon)
    os.close(end)
    os.read(done, 1)
    return opened(f"{d}/x")


@attempt("processes", "exec from a thread that is not the first")
def _(d: str) -> list[Seen]:
    touch(f"{d}/x")
    pid = os.fork()
    if not pid:
        threading.Thread(target=lambda: os.execvp("cat", ["cat", f"{d}/x"])).start()
        time.sleep(60)
    os.waitpid(pid, 0)
    return opened(f"{d}/x", f"{d}/x")


@attempt("processes", "unshare(CLONE_NEWPID): process 1 of a new pid namespace")
def _(d: str) -> list[Seen]:
    checked(libc.unshare(CLONE_NEWPID))
    forked(lambda: touch(f"{d}/x"))
    return opened(f"{d}/x")


@attempt("processes", "the pid of an earlier process, which opened the same file")
def _(d: str) -> list[Seen]:
    first = forked(lambda: touch(f"{d}/x"))
    in_child(fork_as(first), lambda: touch(f"{d}/x"))
    return opened(f"{d}/x", f"{d}/x")


@attempt("processes", "pids used up and used again (small pid_max)")
def _(d: str) -> list[Seen]:
    with open("/proc/sys/kernel/pid_max", "r+") as file:
        before = file.read()
        file.seek(0)
        file.write("400")
        file.flush()
        try:
            burst(os.fsencode(f"{d}/x"), 1000)
        finally:
            file.seek(0)
            file.write(before)
    return opened(f"{d}/x") * 1000


def joined(d: str, flags: int, name: str, after: Callable[[], object]) -> None:
    """Enter a namespace of another process, then do something."""
    ready, tell = os.pipe()
    stay, leave = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(leave)
        checked(libc.unshare(flags))
        inner = os.fork() if flags == CLONE_NEWPID else 1
        os.write(tell, b"r")
        os.read(stay, 1)
        if inner == 0:
            os._exit(0)
        os._exit(0)
    os.read(ready, 1)
    kind = "pid_for_children" if flags == CLONE_NEWPID else name
    namespace = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY)
    checked(libc.setns(namespace, flags))
    try:
        after()
    finally:
        os.close(leave)
        os.waitpid(pid, 0)


@attempt("processes", "setns into another pid namespace, then fork")
def _(d: str) -> list[Seen]:
    joined(d, CLONE_NEWPID, "pid", lambda: forked(lambda: touch(f"{d}/x")))
    return opened(f"{d}/x")


@attempt("processes", "setns into another mount namespace")
def _(d: str) -> list[Seen]:
    joined(d, CLONE_NEWNS, "mnt", lambda: touch(f"{d}/x"))
    return opened(f"{d}/x")


@attempt("processes", "setns into another network namespace, then connect")
def _(d: str) -> list[Seen]:
    joined(d, CLONE_NEWNET, "net", lambda: connect(INET, UDP, in4(PORT)))
    return connected()


@attempt("processes", "a new user namespace, in which it is root")
def _(d: str) -> list[Seen]:
    need(-ctypes.get_errno() if libc.unshare(CLONE_NEWUSER) else 0, "user namespaces")
    touch(f"{d}/x")
    return opened(f"{d}/x")


@attempt("processes", "a name with control characters (PR_SET_NAME), argv written over")
def _(d: str) -> list[Seen]:
    libc.prctl(15, b"[LSM]\n\x1b[2J", 0, 0, 0)
    with open("/proc/self/stat") as file:  # the arguments lie where the kernel says
        start = int(file.read().rpartition(")")[2].split()[45])
    ctypes.memset(start, ord("\n"), 4)
    touch(f"{d}/x")
    return opened(f"{d}/x")


# ---- opens -----------------------------------------------------------------------------------------------------------


RESOLVE = {"no_xdev": 1, "no_magiclinks": 2, "no_symlinks": 4, "beneath": 8, "in_root": 16, "cached": 32}


def _openat2(name: str, flag: int) -> None:
    @attempt("opens", f"openat2, RESOLVE_{name.upper()}")
    def _(d: str) -> list[Seen]:
        touch(f"{d}/new")
        directory = os.open(d, os.O_PATH)
        how = struct.pack("=QQQ", os.O_RDONLY, 0, flag)
        path = b"/new" if name == "in_root" else b"new"
        need(syscall(OPENAT2, directory, path, how, len(how)), f"RESOLVE_{name.upper()}")
        return opened(f"{d}/new", f"{d}/new")


for _name, _flag in RESOLVE.items():
    _openat2(_name, _flag)


@attempt("opens", "open_by_handle_at")
def _(d: str) -> list[Seen]:
    touch(f"{d}/x")
    handle = ctypes.create_string_buffer(struct.pack("=Ii", 128, 0), 8 + 128)
    checked(syscall(NAME_TO_HANDLE_AT, AT_FDCWD, os.fsencode(f"{d}/x"), handle, ctypes.byref(ctypes.c_int()), 0))
    checked(syscall(OPEN_BY_HANDLE_AT, os.open(d, os.O_RDONLY), handle, os.O_RDONLY))
    return opened(f"{d}/x", f"{d}/x")


@attempt("opens", "O_PATH", dict.fromkeys(EVERYONE, "no open: neither read nor written through it; no hook"))
def _(d: str) -> list[Seen]:
    os.mkdir(f"{d}/sub")
    os.open(f"{d}/sub", os.O_PATH)
    return opened(f"{d}/sub")


@attempt("opens", "O_PATH, opened again through /proc/self/fd")
def _(d: str) -> list[Seen]:
    os.mkdir(f"{d}/sub")
    look(f"/proc/self/fd/{os.open(f'{d}/sub', os.O_PATH)}")
    return opened(f"{d}/sub")


@attempt("opens", "O_TMPFILE")
def _(d: str) -> list[Seen]:
    fd = os.open(d, os.O_TMPFILE | os.O_RDWR, 0o600)
    return opened(os.readlink(f"/proc/self/fd/{fd}"))


@attempt("opens", "a descriptor opened again through /proc/self/fd, for writing")
def _(d: str) -> list[Seen]:
    touch(f"{d}/x")
    fd = os.open(f"{d}/x", os.O_RDONLY)
    os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
    return opened(*[f"{d}/x"] * 3)


@attempt("opens", "memfd_create", dict.fromkeys(EVERYONE, "no open: memory of its own, without a name"))
def _(d: str) -> list[Seen]:
    os.memfd_create("pylsm-evasion")
    return opened("/memfd:pylsm-evasion (deleted)")


@attempt("opens", "memfd, opened again through /proc/self/fd")
def _(d: str) -> list[Seen]:
    look(f"/proc/self/fd/{os.memfd_create('pylsm-evasion')}")
    return opened("/memfd:pylsm-evasion (deleted)")


@attempt("opens", "memfd, executed (fexecve)", NO_EXEC)
def _(d: str) -> list[Seen]:
    fd = os.memfd_create("pylsm-evasion")
    with open("/bin/true", "rb") as file:
        os.write(fd, file.read())

    def execute() -> None:
        os.execve(fd, ["true"], {})

    in_child(os.fork(), execute)
    return opened("/memfd:pylsm-evasion (deleted)")


@attempt("opens", "io_uring, OPENAT", NO_URING)
def _(d: str) -> list[Seen]:
    path = ctypes.create_string_buffer(os.fsencode(f"{d}/x"))
    need(uring(18, AT_FDCWD, ctypes.addressof(path), 0o600, 0, os.O_WRONLY | os.O_CREAT), "io_uring openat")
    return opened(f"{d}/x")


@attempt("opens", "io_uring, OPENAT by a worker thread of the kernel (IOSQE_ASYNC)", NO_URING)
def _(d: str) -> list[Seen]:
    path = ctypes.create_string_buffer(os.fsencode(f"{d}/x"))
    need(uring(18, AT_FDCWD, ctypes.addressof(path), 0o600, 0, os.O_WRONLY | os.O_CREAT, WORKER), "io_uring openat")
    return opened(f"{d}/x")


@attempt("opens", "io_uring, OPENAT by the kernel's polling thread (SQPOLL)", NO_URING)
def _(d: str) -> list[Seen]:
    path = ctypes.create_string_buffer(os.fsencode(f"{d}/x"))
    need(uring(18, AT_FDCWD, ctypes.addressof(path), 0o600, 0, os.O_WRONLY | os.O_CREAT, POLLED), "io_uring openat")
    return opened(f"{d}/x")


@attempt("opens", "a script that execve opens", NO_EXEC)
def _(d: str) -> list[Seen]:
    with open(f"{d}/script", "w") as file:
        file.write("#!/bin/true\n")
    os.chmod(f"{d}/script", 0o700)
    subprocess.run([f"{d}/script"], check=True)
    return opened(f"{d}/script", f"{d}/script", os.path.realpath("/bin/true"))


@attempt("opens", "a library that the dynamic loader opens")
def _(d: str) -> list[Seen]:
    with open("/proc/self/maps") as file:
        name = next(line.split()[-1] for line in file if "libc.so.6" in line or "libc-2" in line)
    with open(name, "rb") as file, open(f"{d}/liblate.so", "wb") as copy:
        copy.write(file.read())
    subprocess.run(["/bin/true"], env={"LD_PRELOAD": f"{d}/liblate.so"}, check=False)
    return opened(f"{d}/liblate.so", f"{d}/liblate.so")


@attempt("opens", "written through a mapping after close")
def _(d: str) -> list[Seen]:
    fd = os.open(f"{d}/x", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, 4096)
    mapping = mmap.mmap(fd, 4096)
    os.close(fd)
    mapping[0] = 1
    return opened(f"{d}/x")


@attempt("opens", "a descriptor received from another member (SCM_RIGHTS)")
def _(d: str) -> list[Seen]:
    ours, theirs = socket.socketpair(socket.AF_UNIX)

    def give() -> None:
        fd = os.open(f"{d}/x", os.O_RDWR | os.O_CREAT)
        theirs.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])

    forked(give)
    _, control, _, _ = ours.recvmsg(1, 64)
    os.write(struct.unpack("=i", control[0][2][:4])[0], b"x")
    return opened(f"{d}/x")


@attempt("opens", "a descriptor received from a process that is not traced (SCM_RIGHTS)", STRANGER)
def _(d: str) -> list[Seen]:
    os.write(passed(d)[2], b"x")
    return opened(f"{d}/theirs")


@attempt("opens", "a descriptor taken from a process that is not traced (pidfd_getfd)", STRANGER)
def _(d: str) -> list[Seen]:
    pid, theirs, _ = passed(d)
    os.write(need(syscall(PIDFD_GETFD, os.pidfd_open(pid), theirs, 0), "pidfd_getfd"), b"x")
    return opened(f"{d}/theirs")


@attempt("opens", "a descriptor of a process that is not traced, opened again through its /proc/PID/fd")
def _(d: str) -> list[Seen]:
    pid, theirs, _ = passed(d)
    look(f"/proc/{pid}/fd/{theirs}")
    return opened(f"{d}/theirs")


@attempt("opens", "a descriptor that fanotify hands out", {SYSCALLS: "the kernel opens it, in read"})
def _(d: str) -> list[Seen]:
    touch(f"{d}/x")
    group = need(syscall(FANOTIFY_INIT, 0, os.O_RDONLY), "fanotify")
    checked(syscall(FANOTIFY_MARK, group, 1, 0x20, AT_FDCWD, os.fsencode(f"{d}/x")))  # FAN_MARK_ADD, FAN_OPEN
    touch(f"{d}/x")
    os.close(struct.unpack_from("=i", os.read(group, 24), 16)[0])
    return [*opened(f"{d}/x"), ("mode", "r", f"{d}/x")]


@attempt("opens", "a file for process accounting (acct)", {SYSCALLS: "acct is a system call of its own"})
def _(d: str) -> list[Seen]:
    os.mknod(f"{d}/x", 0o600)
    need(syscall(ACCT, os.fsencode(f"{d}/x")), "acct")
    checked(syscall(ACCT, 0))
    return opened(f"{d}/x")


@attempt("opens", "a 32-bit system call, open", NO_COMPAT)
def _(d: str) -> list[Seen]:
    compat_open(d, os.fsencode(f"{d}/x"))
    return opened(f"{d}/x")


@attempt("opens", "a system call of the x32 ABI, openat", {SYSCALLS: "x32 system calls have other numbers"})
def _(d: str) -> list[Seen]:
    if not X86_64:
        raise Missing("x32: not of this architecture")
    need(syscall(0x40000000 | OPENAT, AT_FDCWD, os.fsencode(f"{d}/x"), os.O_WRONLY | os.O_CREAT, 0o600), "x32")
    return opened(f"{d}/x")


@attempt("opens", "a message queue (mq_open)", {SYSCALLS: "mq_open is a system call of its own"})
def _(d: str) -> list[Seen]:
    need(syscall(MQ_OPEN, b"pylsm-evasion", os.O_RDWR | os.O_CREAT, 0o600, 0), "mq_open")
    syscall(MQ_UNLINK, b"pylsm-evasion")
    return opened("/pylsm-evasion")


@attempt(
    "opens",
    "a core dump, which the kernel writes",
    {SYSCALLS: "the kernel opens it"},
)
def _(d: str) -> list[Seen]:
    with open("/proc/sys/kernel/core_pattern", "r+") as file:
        before = file.read()
        file.seek(0)
        file.write(f"{d}/core")
        file.flush()
        pid = os.fork()
        if not pid:
            import faulthandler
            import resource

            faulthandler.disable()

            hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
            resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
            libc.prctl(4, 1, 0, 0, 0)
            os.kill(os.getpid(), 11)
        os.waitpid(pid, 0)
        file.seek(0)
        file.write(before)
    if not os.path.exists(f"{d}/core"):
        raise Missing("no core dump was written")
    return opened(f"{d}/core")


@attempt("opens", "truncate(2) by path", dict.fromkeys(EVERYONE, "no open: another hook, path_truncate"))
def _(d: str) -> list[Seen]:
    os.mknod(f"{d}/x", 0o600)
    os.truncate(f"{d}/x", 100)
    return opened(f"{d}/x")


@attempt(
    "opens", "a path renamed while it is opened, a thousand times", {SYSCALLS: "may: it reads the path afterwards"}
)
def _(d: str) -> list[Seen]:
    stop = []
    touch(f"{d}/a")

    def rename() -> None:
        while not stop:
            os.rename(f"{d}/a", f"{d}/b")
            os.rename(f"{d}/b", f"{d}/a")

    thread = threading.Thread(target=rename)
    thread.start()
    inodes = 0
    for _ in range(1000):
        try:
            os.close(os.open(f"{d}/a", os.O_RDONLY))
            inodes += 1
        except FileNotFoundError:
            continue
    stop.append(1)
    thread.join()
    return [*opened(f"{d}/a"), ("inode", str(os.stat(f"{d}/a").st_ino), 1 if inodes else 0)]


# ---- connects --------------------------------------------------------------------------------------------------------


def _length(family: int, length: int, what: str) -> None:
    @attempt("connects", what)
    def _(d: str) -> list[Seen]:
        address = (in4(PORT) if family == INET else in6(PORT)) + bytes(128)
        result = connect(family, UDP, address, length)
        assert result == 0, result
        return connected(address=LOOPBACK if family == INET else "::1")


_length(INET, 16, "IPv4, addrlen 16")
_length(INET, 24, "IPv4, addrlen 24")
_length(INET, 28, "IPv4, addrlen 28")
_length(INET, 128, "IPv4, addrlen 128")
_length(INET6, 24, "IPv6, addrlen 24")
_length(INET6, 28, "IPv6, addrlen 28")
_length(INET6, 128, "IPv6, addrlen 128")


@attempt("connects", "AF_UNSPEC in between: disconnect, connect again elsewhere")
def _(d: str) -> list[Seen]:
    with socket.socket(INET, UDP) as sock:
        sock.connect((LOOPBACK, 1))
        buffer = ctypes.create_string_buffer(bytes(16), 16)
        checked(syscall(CONNECT, sock.fileno(), buffer, 16))
        sock.connect((LOOPBACK, 2))
    return connected(1) + connected(2)


@attempt("connects", "IPv4-mapped IPv6")
def _(d: str) -> list[Seen]:
    connect(INET6, UDP, in6(PORT, bytes(10) + b"\xff\xff" + socket.inet_aton(LOOPBACK)))
    return connected()


@attempt("connects", "non-blocking, refused")
def _(d: str) -> list[Seen]:
    connect(INET, TCP, in4(PORT), flags=socket.SOCK_NONBLOCK)
    return connected()


@attempt("connects", "UDP, connected again to others")
def _(d: str) -> list[Seen]:
    with socket.socket(INET, UDP) as sock:
        for port in (1, 2, 3):
            sock.connect((LOOPBACK, port))
    return connected(1) + connected(2) + connected(3)


@attempt("connects", "a raw socket")
def _(d: str) -> list[Seen]:
    with socket.socket(INET, socket.SOCK_RAW, 255) as sock:
        sock.connect((LOOPBACK, PORT))
    return connected()


@attempt("connects", "MPTCP")
def _(d: str) -> list[Seen]:
    try:
        sock = socket.socket(INET, TCP, 262)
    except OSError as error:
        raise Missing(f"MPTCP: {error.strerror}") from None
    with sock:
        sock.connect_ex((LOOPBACK, PORT))
    return connected()


def sctp(kind: int = TCP) -> socket.socket:
    try:
        return socket.socket(INET, kind, 132)
    except OSError as error:
        raise Missing(f"SCTP: {error.strerror}") from None


@attempt("connects", "SCTP")
def _(d: str) -> list[Seen]:
    with sctp() as sock:
        sock.settimeout(2)
        sock.connect_ex((LOOPBACK, PORT))
    return connected()


@attempt(
    "connects",
    "SCTP, sctp_connectx",
    dict.fromkeys(EVERYONE, "a socket option: another hook, sctp_bind_connect"),
)
def _(d: str) -> list[Seen]:
    with sctp() as sock:
        sock.setblocking(False)
        try:
            sock.setsockopt(132, 110, in4(PORT))
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno not in (115, 111):
                raise
    return connected()


@attempt("connects", "io_uring, CONNECT", NO_URING)
def _(d: str) -> list[Seen]:
    address = ctypes.create_string_buffer(in4(PORT), 16)
    with socket.socket(INET, UDP) as sock:
        need(uring(16, sock.fileno(), ctypes.addressof(address), 0, 16, 0), "io_uring connect")
    return connected()


@attempt("connects", "io_uring, CONNECT by a worker thread of the kernel (IOSQE_ASYNC)", NO_URING)
def _(d: str) -> list[Seen]:
    address = ctypes.create_string_buffer(in4(PORT), 16)
    with socket.socket(INET, UDP) as sock:
        need(uring(16, sock.fileno(), ctypes.addressof(address), 0, 16, 0, WORKER), "io_uring connect")
    return connected()


@attempt("connects", "io_uring, CONNECT by the kernel's polling thread (SQPOLL)", NO_URING)
def _(d: str) -> list[Seen]:
    address = ctypes.create_string_buffer(in4(PORT), 16)
    with socket.socket(INET, UDP) as sock:
        need(uring(16, sock.fileno(), ctypes.addressof(address), 0, 16, 0, POLLED), "io_uring connect")
    return connected()


@attempt("connects", "a 32-bit system call, connect", NO_COMPAT)
def _(d: str) -> list[Seen]:
    compat_connect(d, in4(PORT))
    return connected()


@attempt("connects", "a 32-bit system call, socketcall", NO_COMPAT)
def _(d: str) -> list[Seen]:
    compat_connect(d, in4(PORT), socketcall=True)
    return connected()


@attempt("connects", "a Unix socket", NO_IP)
def _(d: str) -> list[Seen]:
    passed(d)
    return connected(0, d)


@attempt("connects", "AF_VSOCK: the host of a virtual machine", NO_IP)
def _(d: str) -> list[Seen]:
    try:
        sock = socket.socket(socket.AF_VSOCK, TCP)
    except OSError as error:
        raise Missing(f"AF_VSOCK: {error.strerror}") from None
    with sock:
        sock.settimeout(0.5)
        sock.connect_ex((2, PORT))
    return connected(address="2")


@attempt("connects", "TCP Fast Open: sendto with MSG_FASTOPEN")
def _(d: str) -> list[Seen]:
    with socket.socket(INET, TCP) as sock:
        try:
            sock.sendto(b"x", MSG_FASTOPEN, (LOOPBACK, PORT))
        except ConnectionRefusedError:
            pass
        except OSError as error:
            raise Missing(f"MSG_FASTOPEN: {error.strerror}") from None
    return sent()


@attempt("connects", "TCP_FASTOPEN_CONNECT: connect, sent with the first write")
def _(d: str) -> list[Seen]:
    with socket.socket(INET, TCP) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, 30, 1)
        sock.connect_ex((LOOPBACK, PORT))
    return connected()


@attempt("connects", "packets of its own making (AF_PACKET)", dict.fromkeys(EVERYONE, "no IP socket: frames, as root"))
def _(d: str) -> list[Seen]:
    try:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    except OSError as error:
        raise Missing(f"AF_PACKET: {error.strerror}") from None
    with sock:
        sock.sendto(bytes(64), ("lo", 0x0800))
    return connected()


@attempt(
    "connects",
    "the address changed by another thread while connect reads it",
    {SYSCALLS: "may: it reads the address at entry, the kernel a moment later"},
)
def _(d: str) -> list[Seen]:
    stop = []
    buffer = ctypes.create_string_buffer(in4(1), 16)

    def flip() -> None:
        while not stop:
            buffer[3] = b"\2"
            buffer[3] = b"\1"

    thread = threading.Thread(target=flip)
    thread.start()
    made: list[Seen] = []
    sys.setswitchinterval(1e-6)
    for _ in range(200):
        with socket.socket(INET, UDP) as sock:
            checked(syscall(CONNECT, sock.fileno(), buffer, 16))
            made.append(("connect", *sock.getpeername()))
    stop.append(1)
    thread.join()
    return made


# ---- messages without a connect -----------------------------------------------------------------------------------


def message(address: bytes) -> tuple[bytes, list[object]]:
    """A struct msghdr with one byte for ``address``, and what it points to."""
    name, data = ctypes.create_string_buffer(address), ctypes.create_string_buffer(b"x")
    vector = ctypes.create_string_buffer(struct.pack("=QQ", ctypes.addressof(data), 1))
    header = struct.pack("=QIIQQQQiI", ctypes.addressof(name), len(address), 0, ctypes.addressof(vector), 1, 0, 0, 0, 0)
    return header, [name, data, vector]


@attempt("messages", "UDP, sendto")
def _(d: str) -> list[Seen]:
    with socket.socket(INET, UDP) as sock:
        sock.sendto(b"x", (LOOPBACK, PORT))
    return sent()


@attempt("messages", "UDP, sendmsg to three destinations")
def _(d: str) -> list[Seen]:
    with socket.socket(INET, UDP) as sock:
        for port in (1, 2, 3):
            sock.sendmsg([b"x"], [], 0, (LOOPBACK, port))
    return sent(1) + sent(2) + sent(3)


@attempt("messages", "UDP, sendmmsg")
def _(d: str) -> list[Seen]:
    header, kept = message(in4(PORT))
    with socket.socket(INET, UDP) as sock:
        checked(syscall(SENDMMSG, sock.fileno(), ctypes.create_string_buffer(header + bytes(8)), 1, 0))
    del kept
    return sent()


@attempt("messages", "UDP, the second of two in one sendmmsg", {SYSCALLS: "it reads the first message of a sendmmsg"})
def _(d: str) -> list[Seen]:
    (first, kept), (second, kept_too) = message(in4(1)), message(in4(2))
    both = ctypes.create_string_buffer(first + bytes(8) + second + bytes(8))
    with socket.socket(INET, UDP) as sock:
        assert checked(syscall(SENDMMSG, sock.fileno(), both, 2, 0)) == 2
    del kept, kept_too
    return sent(1) + sent(2)


@attempt("messages", "UDP, to another than the socket is connected to")
def _(d: str) -> list[Seen]:
    with socket.socket(INET, UDP) as sock:
        sock.connect((LOOPBACK, 1))
        sock.sendto(b"x", (LOOPBACK, 2))
    return connected(1) + sent(2)


@attempt("messages", "a raw socket, sendto")
def _(d: str) -> list[Seen]:
    with socket.socket(INET, socket.SOCK_RAW, 253) as sock:  # for experiments (RFC 3692)
        sock.sendto(b"x", (LOOPBACK, 0))
    return sent(0)


@attempt("messages", "io_uring, SENDMSG", NO_URING)
def _(d: str) -> list[Seen]:
    header, kept = message(in4(PORT))
    buffer = ctypes.create_string_buffer(header)
    with socket.socket(INET, UDP) as sock:
        assert need(uring(9, sock.fileno(), ctypes.addressof(buffer), 1, 0, 0), "io_uring sendmsg") == 1
    del kept
    return sent()


@attempt("messages", "io_uring, SENDMSG by the kernel's polling thread (SQPOLL)", NO_URING)
def _(d: str) -> list[Seen]:
    header, kept = message(in4(PORT))
    buffer = ctypes.create_string_buffer(header)
    with socket.socket(INET, UDP) as sock:
        assert need(uring(9, sock.fileno(), ctypes.addressof(buffer), 1, 0, 0, POLLED), "io_uring sendmsg") == 1
    del kept
    return sent()


@attempt("messages", "SCTP, sendto on a socket for many")
def _(d: str) -> list[Seen]:
    with sctp(socket.SOCK_SEQPACKET) as sock:
        sock.setblocking(False)
        with suppress(BlockingIOError):
            sock.sendto(b"x", (LOOPBACK, PORT))
    return sent()
