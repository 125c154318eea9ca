"""What only a machine of one's own can suffer: processors that go, a small memory cgroup; losses on two processors."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path

import pytest
from cases.cli import PYLSM, nothing_left
from cases.lab import CONNECTS_AND_OPENS, Lab, touch

from pylsm.audit.session import Audit
from pylsm.loader.bpf import kernel_release

pytestmark = pytest.mark.vm

CPU = Path("/sys/devices/system/cpu/cpu1/online")


@pytest.mark.skipif(not CPU.exists(), reason="needs tools/vm --cpus 2")
def test_a_processor_goes_and_comes(source: str, tmp_path: Path) -> None:
    """What it had counted is not forgotten, and nothing is lost."""

    def work() -> int:
        made = 0
        for state in ("0", "1", "0", "1"):
            for number in range(100):
                touch(f"{tmp_path}/{state}-{made}-{number}")
            made += 100
            CPU.write_text(state)
            os.listdir(tmp_path)
        return made

    with Audit(source=source, events=CONNECTS_AND_OPENS) as audit:
        outcome = Lab(audit).run(work)
        assert len(outcome.opens(f"{tmp_path}/")) == outcome.result == 400
        assert outcome.counts.recorded == len(outcome.events)
        assert outcome.counts.lost == 0


def test_a_memory_cgroup_of_64_mib(tmp_path: Path) -> None:
    """Maps are charged to it from 5.11 on: the ring asked for does not fit, or the audit works within it."""
    root = Path("/sys/fs/cgroup")
    if "memory" not in (root / "cgroup.controllers").read_text():
        pytest.skip("no memory controller in cgroup2 here")
    (root / "cgroup.subtree_control").write_text("+memory")
    group = root / "pylsm-64"
    group.mkdir(exist_ok=True)
    (group / "memory.max").write_text(str(64 << 20))

    def inside(*arguments: str) -> subprocess.CompletedProcess[str]:
        script = f'echo $$ >{group}/cgroup.procs; exec "$@"'
        command = [
            "sh",
            "-c",
            script,
            "sh",
            *PYLSM,
            "run",
            "-q",
            *arguments,
            "--",
            "sh",
            "-c",
            "cat /etc/hosts >/dev/null",
        ]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    with nothing_left():
        done = inside()
        assert done.returncode == 0, done.stderr
        assert "path=/etc/hosts" in done.stdout
        if kernel_release() >= (5, 11):
            refused = inside("--ring-size", "128M")
            assert refused.returncode in (125, -9), refused
            if refused.returncode == 125:
                assert "memory" in refused.stderr
    group.rmdir()


def test_losses_are_exact_on_two_processors(source: str, tmp_path: Path) -> None:
    """Four processes fill a small ring while it is read: produced = recorded + deduplicated + lost, to the last one."""
    each = 1500

    def work() -> int:
        pids = []
        for number in range(4):
            pid = os.fork()
            if not pid:
                for index in range(each):
                    os.close(os.open(f"{tmp_path}/{number}-{index % 1000}", os.O_WRONLY | os.O_CREAT))
                os._exit(0)
            pids.append(pid)
        for pid in pids:
            os.waitpid(pid, 0)
        return 4 * each

    with Audit(source=source, ring_bytes=16384, events=CONNECTS_AND_OPENS) as audit:
        read = []
        stop = threading.Event()

        def reader() -> None:
            while not stop.is_set():
                read.extend(audit.read(0.01))
                time.sleep(0.02)

        before = audit.counts()
        lab = Lab(audit)
        thread = threading.Thread(target=reader)
        thread.start()
        outcome = lab.run(work)
        stop.set()
        thread.join()
        read += outcome.events + audit.read()
        after = audit.counts()
        produced = outcome.result
        recorded, lost = after.recorded - before.recorded, after.lost - before.lost
        assert recorded + lost + after.deduplicated - before.deduplicated == produced
        assert len(read) == recorded
