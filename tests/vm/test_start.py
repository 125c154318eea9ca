"""What a start does, counted: modules imported, calls of bpf(2), files read. Exact, so that none is added unnoticed.

Whoever adds one raises the number here, and says in the commit why a start cannot do without.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cases.kernel import needs
from cases.lab import TRAMPOLINES

import pylsm
from pylsm.asm import MapType
from pylsm.audit.events import DEFAULT
from pylsm.audit.maps import MARKS
from pylsm.audit.shipped import FILE, Shipped, build
from pylsm.audit.sources import SOURCES, Plan
from pylsm.loader import BpfError, Map, features
from pylsm.loader.bpf import kernel_release
from pylsm.loader.kernel_types import kernel_types
from pylsm.loader.prepare import prepare

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(
        not TRAMPOLINES, reason="what is counted is a start over LSM hooks, which this kernel does not call"
    ),
]

#: As ``python -m pylsm``, up to the word of it: then what was imported and asked of the kernel, as JSON.
START = """
import sys
before = set(sys.modules)
from pylsm.loader import bpf
from pylsm.loader.attr import Cmd
calls = {}
real = bpf._syscall
def counted(number, command, *rest):
    name = Cmd(command).name
    calls[name] = calls.get(name, 0) + 1
    return real(number, command, *rest)
bpf._syscall = counted
from pylsm.cli import attach
told = attach.announce
def announce(audit, *rest):
    told(audit, *rest)
    modules = sorted(set(sys.modules) - before)
    import json
    cache = audit.cache
    print(json.dumps({
        "modules": modules, "calls": calls, "variant": audit.variant.name,
        "used": cache.used, "ignored": cache.ignored, "source": audit.source.name, "shipped": audit.shipped,
    }))
    sys.stdout.flush()
    audit.close()
    import os
    os._exit(0)
attach.announce = announce
from pylsm.cli import main
main(sys.argv[1:])
"""
#: The best variant, which the programs that come along are of.
task_storage = needs(features.map_type(MapType.TASK_STORAGE), "task storage", "5.11")
#: Modules of pylsm that a start from the cache imports.
MODULES = 34
#: Of the programs, copies and what marks children where the kernel skips programs.
MORE = 5 if kernel_release() >= (7, 0) else 0
#: Calls of bpf(2) until both hooks are known to see. Those of BTF_LOAD are for people who look at maps and programs.
CALLS = {
    "BTF_LOAD": 8 + MORE,
    "MAP_CREATE": 7,
    "PROG_LOAD": 5 + MORE,
    "RAW_TRACEPOINT_OPEN": 5 + MORE,
    "OBJ_GET_INFO_BY_FD": 0,
    "MAP_LOOKUP_BATCH": 1,
}
#: What a start from the cache has no use for: each costs as much as ten of pylsm's own modules.
HEAVY = {
    *("argparse", "enum", "re", "typing", "dataclasses", "inspect", "signal", "socket", "ctypes", "hashlib", "pathlib"),
    *("json", "threading", "locale", "gettext", "subprocess", "construct", "elftools", "pyroute2"),
    *("pylsm.btf", "pylsm.asm", "pylsm.asm.assembler", "pylsm.asm.verify", "pylsm.audit.programs"),
    *("pylsm.loader.prepare", "_socket", "select"),
    *("pylsm.audit.events", "pylsm.audit.records", "pylsm.audit.decode", "pylsm.cli.follow", "pylsm.output"),
}


#: Of these, a first start on a kernel asks what an installation brings along, and reads the kernel's types.
FIRST = {"pylsm.btf", "pylsm.asm"}


def start(cache: Path | str, *options: str, **environment: str) -> dict[str, Any]:
    with subprocess.Popen(["sleep", "1000"]) as victim:
        try:
            command = [sys.executable, "-c", START, "attach", "-q", "-p", str(victim.pid), *options]
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=300,
                env={**os.environ, "PYLSM_CACHE": str(cache), **environment},
                cwd="/" if "PYTHONPATH" in environment else None,  # python -c looks here first
            )
        finally:
            victim.kill()
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture
def warm(tmp_path: Path) -> Path:
    """A cache that the command line itself has filled."""
    cache = tmp_path / "cache"
    command = [sys.executable, "-m", "pylsm", "run", "-q", "--events", "connect,open", "--", "true"]
    subprocess.run(command, check=True, timeout=300, env={**os.environ, "PYLSM_CACHE": str(cache)})
    assert len(os.listdir(cache)) >= 2
    return cache


def test_a_start_from_the_cache_has_its_exact_budget(warm: Path) -> None:
    found = start(warm, "--events", "connect,open")
    if found["variant"] != "d_path":
        pytest.skip(f"the numbers are those of kernels from 6.1 on; this one takes the variant {found['variant']}")
    if "pylsm.loader.hints" in found["modules"]:
        # A call has failed. Linux 7 has task storage only on processors with cmpxchg16b, which tools/vm leaves
        # out (docs/vm.md): there the kernel answers ENOMEM, and the family is searched by number.
        with Map.create(MARKS) as marks, pytest.raises(BpfError) as caught:
            marks.update(struct.pack("=i", os.pidfd_open(os.getpid())), bytes(marks.value_size))
        assert caught.value.errno == errno.ENOMEM
        pytest.skip("this machine's processor lacks cmpxchg16b, so that its kernel gives no task storage")
    assert not HEAVY.intersection(found["modules"])
    assert len([name for name in found["modules"] if name.startswith("pylsm")]) == MODULES, found["modules"]
    assert {name: found["calls"].get(name, 0) for name in CALLS} == CALLS, found["calls"]


@pytest.mark.parametrize("how", ["none", "unwritable", "a file", "somebody else's", "damaged", "of another kernel"])
def test_a_start_works_whatever_the_cache_is(how: str, warm: Path, tmp_path: Path) -> None:
    """It is prepared anew then, and sees as ever: the start ends only when it has seen its own open and connect."""
    cache: Path | str = warm
    if how == "none":
        cache = ""
    elif how == "unwritable":
        cache = "/proc/1/no/such/place"
    elif how == "a file":
        cache = tmp_path / "file"
        cache.write_bytes(b"x")
    elif how == "somebody else's":
        os.chown(warm, 1000, 1000)
    elif how == "damaged":
        for file in warm.iterdir():
            data = bytearray(file.read_bytes())
            data[len(data) // 2] ^= 1
            file.write_bytes(data)
    else:
        for file in warm.iterdir():
            file.write_bytes(file.read_bytes().replace(b"pylsm 0", b"pylsm 9"))
    found = start(cache, "--events", "connect,open")
    assert found["source"] == "lsm" and not found["used"]
    assert bool(found["ignored"]) == (how not in ("none", "unwritable")), found["ignored"]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Where pylsm lies as an installation has it, with the programs that it brings along."""
    shutil.copytree(Path(pylsm.__file__).parent, tmp_path / "site/pylsm", ignore=shutil.ignore_patterns("*.pyc"))
    (tmp_path / "site/pylsm" / FILE).write_bytes(build())
    return tmp_path / "site"


def test_the_first_start_of_an_installation_assembles_nothing(site: Path, tmp_path: Path) -> None:
    options = ("--events", "connect,open")
    found = start(tmp_path / "cache", *options, PYTHONPATH=str(site))
    if found["variant"] != "d_path":
        assert found["source"] == "lsm" and found["modules"], "its programs do not fit, others are made"
        return
    assert found["shipped"] == ["lsm-d_path-connect-open-hooks"] and not found["used"]
    assert not (HEAVY - FIRST).intersection(found["modules"])
    command = [sys.executable, "-m", "pylsm", "run", *options, "--", "cat", "/etc/hostname"]
    environment = {**os.environ, "PYTHONPATH": str(site), "PYLSM_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd="/", check=True)
    assert "path=/etc/hostname" in done.stdout
    again = start(tmp_path / "cache", *options, PYTHONPATH=str(site))
    assert again["used"] == found["shipped"] and not again["shipped"] and not HEAVY.intersection(again["modules"])


@task_storage
def test_what_is_brought_along_is_what_would_be_assembled(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Instruction by instruction, with lines and types, on each kernel that it fits, for kinds together and alone."""
    monkeypatch.setattr("pylsm.__file__", str(site / "pylsm/__init__.py"))
    brought = Shipped()
    for events in ((), DEFAULT, DEFAULT[:2], *((event,) for event in DEFAULT)):
        plan = Plan("lsm", SOURCES[0].variants_of(kernel_release())[0], events)
        for part, programs in (("hooks", plan.programs()), ("walkers", plan.walkers())):
            assert brought.programs(plan, part) == prepare(programs), (events, part)


@task_storage
def test_a_hook_with_another_number_of_arguments_is_left_to_the_proof(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pylsm.__file__", str(site / "pylsm/__init__.py"))
    plan = Plan("lsm", SOURCES[0].variants_of(kernel_release())[0])
    assert Shipped().programs(plan, "hooks") is not None
    monkeypatch.setattr("pylsm.audit.shipped._argument", lambda section, kernel: 2)
    assert Shipped().programs(plan, "hooks") is None


def test_the_kernels_types_by_bpf_are_those_in_sys() -> None:
    found = kernel_types()
    if found is None:
        assert os.uname().release.startswith("5.10."), "before, they are shown from the first tracing program on only"
        return
    assert bytes(found) == Path("/sys/kernel/btf/vmlinux").read_bytes()
