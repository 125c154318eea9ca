"""Processes in pid namespaces, and pylsm in one."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

from cases.cli import PYLSM, Running, nothing_left, pylsm
from cases.lab import CLONE_NEWPID, Lab, checked, eventually, forked, libc, look

CONTAINER = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


def test_run_inside_a_pid_namespace(tmp_path: Path) -> None:
    result = subprocess.run(
        [*CONTAINER, *PYLSM, "run", "--", "sh", "-c", f": >{tmp_path}/x; exit 3"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 3, result.stderr
    (line,) = [line for line in result.stdout.splitlines() if line.endswith(f"mode=w path={tmp_path}/x")]
    # The pid is that of the initial namespace, where a number means one process.
    assert int(re.search(r"pid=(\d+)", line)[1]) > 10  # type: ignore[index]


def test_attach_by_either_pid(tmp_path: Path) -> None:
    """A process in a container: by the host's pid from the host, by its own from inside."""
    script = f"echo $$; while read x; do : >{tmp_path}/$x; done"
    container = subprocess.Popen(
        [*CONTAINER, "sh", "-c", f"sh -c '{script}'; true"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert container.stdin
    assert container.stdout
    inner = int(container.stdout.readline())
    init = int(Path(f"/proc/{container.pid}/task/{container.pid}/children").read_text())
    (outer,) = map(int, Path(f"/proc/{init}/task/{init}/children").read_text().split())
    assert inner != outer
    inside = ["nsenter", "--pid", "--mount", "--target", str(init)]

    try:
        for name, number, before in (("from-the-host", outer, []), ("from-inside", inner, inside)):
            running = Running("attach", "-p", number, before=before)
            container.stdin.write(f"{name}\n")
            container.stdin.flush()
            assert eventually((tmp_path / name).exists)
            if "inside" in name:  # nsenter is the parent of pylsm and passes no signal on
                pid = int(Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text())
                os.kill(pid, signal.SIGINT)
                status, out, err = running.finish()
            else:
                status, out, err = running.finish(signal.SIGINT)
            assert status == 0, err
            lines = [line for line in out.splitlines() if f"path={tmp_path}/" in line]
            assert lines == [f"[LSM] open pid={outer} comm=sh mode=w path={tmp_path}/{name}"]
    finally:
        container.kill()
        container.communicate()


def test_a_number_that_means_another_process_outside(tmp_path: Path) -> None:
    """From inside, -p 1 is the container's init, not the machine's."""
    script = f"""
"$@" attach -p $$ 2>{tmp_path}/err &
until grep -q 'attached to' {tmp_path}/err; do sleep 0.1; done
: >{tmp_path}/x
kill -TERM $!
wait $!
"""
    result = subprocess.run(
        [*CONTAINER, "sh", "-c", script, "sh", *PYLSM], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0
    assert f"mode=w path={tmp_path}/x\n" in result.stdout


def test_a_number_of_a_container_given_on_the_host() -> None:
    """Where it is nobody's here, the message says whose it is inside."""
    last = int(Path("/proc/sys/kernel/pid_max").read_text()) - 50
    with nothing_left():
        container = subprocess.Popen(
            [*CONTAINER, "sh", "-c", f"echo {last} >/proc/sys/kernel/ns_last_pid; sleep 98 & echo $!; wait"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert container.stdout
        try:
            inner = int(container.stdout.readline())
            init = Path(f"/proc/{container.pid}/task/{container.pid}/children").read_text().strip()
            outer = Path(f"/proc/{init}/task/{init}/children").read_text().strip()
            assert inner > last
            assert not Path(f"/proc/{inner}").exists()
            assert eventually(lambda: Path(f"/proc/{outer}/comm").read_text() == "sleep\n")
            result = pylsm("attach", "-p", inner)
            assert result.returncode == 125
            where = f"inside another pid namespace it is process {outer} (sleep)"
            assert f"no process has pid {inner} here; {where}" in result.stderr
            assert f"-p {outer}" in result.stderr
        finally:
            container.kill()
            container.communicate()


def test_a_traced_process_enters_a_pid_namespace(lab: Lab, tmp_path: Path) -> None:
    def work() -> None:
        checked(libc.unshare(CLONE_NEWPID))
        forked(lambda: subprocess.run(["cat", tmp_path / "x"], check=True, stdout=subprocess.DEVNULL))
        look(tmp_path / "x")

    (tmp_path / "x").touch()
    assert len(lab.run(work).opens(tmp_path / "x")) == 2
