"""Process 1 of the machine: mounts, runs the command, sends its output and status to the host.

Everything goes through the second serial port as frames: one byte of kind, four of length (big-endian),
data. Kernel messages have the first port for themselves. Only the standard library, and little of it:
each import costs time under emulation. Runs as a script, /init.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import select
import signal
import struct
import sys
import termios
import time
import tty

# The second serial port, after the console's; an arm64 board has one of another kind, called ttyAMA0.
PORT = "/dev/ttyS1" if os.uname().machine == "x86_64" else "/dev/ttyS0"
JOB = "/job.json"
OUTBOX = "/out"
PIPE_SIZE = 65536
POWER_OFF = 0x4321FEDC
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1

# (type, where, options); a kernel without one of them is a kernel without one of them
MOUNTS = (
    ("proc", "/proc", None),
    ("sysfs", "/sys", None),
    ("devtmpfs", "/dev", None),
    ("devpts", "/dev/pts", b"ptmxmode=0666"),
    ("tmpfs", "/dev/shm", None),
    ("tmpfs", "/tmp", None),
    ("tmpfs", "/run", None),
    ("securityfs", "/sys/kernel/security", None),
    ("debugfs", "/sys/kernel/debug", None),
    ("tracefs", "/sys/kernel/tracing", None),
    ("bpf", "/sys/fs/bpf", None),
    ("cgroup2", "/sys/fs/cgroup", None),
)

libc = ctypes.CDLL(None, use_errno=True)


def mount_all() -> None:
    for kind, where, options in MOUNTS:
        try:
            os.makedirs(where, exist_ok=True)
        except OSError as error:  # a mount point of /sys that this kernel does not have
            print(f"init: {where}: {error.strerror}")
            continue
        if kind == "tmpfs" and os.listdir(where):  # a checkout or Python below /tmp stays in sight
            continue
        if libc.mount(kind.encode(), where.encode(), kind.encode(), 0, options):
            print(f"init: cannot mount {kind}: {os.strerror(ctypes.get_errno())}")
    for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        os.symlink("/proc/self/fd" + target, "/dev/" + name)


def raise_loopback() -> None:
    """127.0.0.1 and ::1 come with the interface."""
    import fcntl
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = fcntl.ioctl(any_socket, SIOCGIFFLAGS, struct.pack("16sH22x", b"lo", 0))
        flags = struct.unpack_from("H", request, 16)[0]
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", flags | IFF_UP))


def load_modules(paths: list[str]) -> None:
    for path in paths:
        with open(path, "rb") as file:
            data = file.read()
        if libc.init_module(data, ctypes.c_ulong(len(data)), b"") and ctypes.get_errno() != errno.EEXIST:
            raise OSError(ctypes.get_errno(), f"cannot load {path}")


def open_port() -> int:
    fd = os.open(PORT, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    tty.setraw(fd)
    return fd


class Port:
    """Frames to the host; a file to write to for tarfile."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def send(self, kind: bytes, data: bytes) -> None:
        data = struct.pack(">cI", kind, len(data)) + data
        while data:
            data = data[os.write(self.fd, data) :]

    def write(self, data: bytes) -> int:
        self.send(b"t", data)
        return len(data)


def spawn(command: list[str], environment: dict[str, str], directory: str, stdout: int, stderr: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and ignoring is inherited
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        os.chdir(directory)
        os.execvpe(command[0], command, environment)
    except OSError as error:
        os.write(2, f"tools/vm: {command[0]}: {error.strerror}\n".encode())
        os._exit(127 if error.errno == errno.ENOENT else 126)
    finally:
        os._exit(126)


def run(port: Port, command: list[str], environment: dict[str, str], directory: str) -> int:
    """Run the command to its end, reap every orphan meanwhile; the status as a shell tells it."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    out, stdout = os.pipe()
    err, stderr = os.pipe()
    child = spawn(command, environment, directory, stdout, stderr)
    os.close(stdout)
    os.close(stderr)

    kinds = {out: b"o", err: b"e"}

    def forward(fd: int) -> None:
        data = os.read(fd, PIPE_SIZE)
        if data:
            port.send(kinds[fd], data)
        else:
            del kinds[fd]

    status: int | None = None
    while status is None:
        for fd in select.select([woken, *kinds], [], [])[0]:
            if fd == woken:
                os.read(woken, PIPE_SIZE)
                status = reap(child)
            else:
                forward(fd)
    # What the command wrote is in the pipes by now, and one read empties a pipe: a daemon that goes on
    # writing does not keep the machine.
    for fd in select.select(list(kinds), [], [], 0)[0]:
        forward(fd)
    return status


def reap(child: int) -> int | None:
    """Collect every process that has ended; the status of `child` if it is among them."""
    status = None
    while True:
        try:
            pid, ended = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return status
        if pid == 0:
            return status
        if pid == child:
            status = 128 + os.WTERMSIG(ended) if os.WIFSIGNALED(ended) else os.WEXITSTATUS(ended)


def send_outbox(port: Port) -> None:
    import tarfile

    with tarfile.open(fileobj=port, mode="w|") as archive:  # type: ignore[call-overload]
        archive.add(OUTBOX, arcname=".")


def main() -> None:
    mount_all()
    port = Port(open_port())
    try:
        with open(JOB) as file:
            job = json.load(file)
        port.send(b"b", b"")
        libc.sethostname(b"pylsm-vm", 8)
        raise_loopback()
        load_modules(job["modules"])
        os.makedirs(OUTBOX, exist_ok=True)
        environment = {**job["environment"], "PYLSM_VM": os.uname().release}
        status = run(port, job["command"], environment, job["directory"])
        if job["share_out"]:
            send_outbox(port)
        port.send(b"x", bytes([status]))
    except Exception as error:
        port.send(b"f", f"{type(error).__name__}: {error}".encode())
    termios.tcdrain(port.fd)


if __name__ == "__main__":
    try:
        main()
    finally:
        sys.stdout.flush()
        libc.reboot(POWER_OFF)
        time.sleep(60)  # a process 1 that ends is a panic
