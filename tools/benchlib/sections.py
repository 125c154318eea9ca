"""What ``tools/bench`` can measure, section by section: each runs its contenders and returns plain data for JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from elftools.elf.elffile import ELFFile

from tools.benchlib import FOLDER, floor, machine
from tools.benchlib.build import SOURCES, Peer, build, fetch

__all__ = ["SECTIONS", "Plan", "Section"]


class Plan(NamedTuple):
    """What is there to measure with.

    Attributes:
        programs: compiled peers by name.
        peers: peers from packages by name.
        missing: peers that could not be had, and why.
        quick: fewer runs, and without what takes minutes.
    """

    programs: dict[str, Path]
    peers: dict[str, Peer]
    missing: dict[str, str]
    quick: bool

    @classmethod
    def prepare(cls, quick: bool) -> Plan:
        """Build and fetch all that can be had."""
        built = build(FOLDER)
        if "work" not in built.programs:
            raise RuntimeError(f"without the workload nothing can be measured: {built.missing['work']}")
        fetched, missing = fetch(FOLDER)
        return cls(built.programs, fetched, {**built.missing, **missing}, quick)


class Section(NamedTuple):
    """One thing to measure: its name on the command line, what it is, how it is run."""

    name: str
    about: str
    run: Callable[[Plan], Any]


def _hooks(plan: Plan) -> Any:
    result = machine.run(
        "hooks", [FOLDER, 21 if plan.quick else 41], files=[plan.programs[name] for name in plan.programs]
    )
    if "c" in result["programs"]:
        with open(FOLDER / "probe.bpf.o", "rb") as file:
            elf = ELFFile(file)
            for hook, info in result["programs"]["c"].items():
                info["slots"] = elf.get_section_by_name(f"lsm/{hook}")["sh_size"] // 8
    return result


def _startup(plan: Plan) -> Any:
    runs = 2 if plan.quick else 3
    default = ["python3", "-m", "pylsm", "attach", "-p", "PID", "-o", "/tmp/events"]
    # What the C probe hooks, no more.
    attach = [*default, "--events", "connect,open"]
    # As the console script of an installation does it, which spares what `python -m` imports.
    script = ["python3", "-c", "from pylsm.cli import main; main()", *attach[3:]]
    contenders: list[dict[str, Any]] = [
        {"name": "python -c pass", "command": ["python3", "-c", "pass"], "ready": "", "runs": runs},
        {"name": "python -c 'import runpy'", "command": ["python3", "-c", "import runpy"], "ready": "", "runs": runs},
        {"name": "pylsm, cold", "command": attach, "ready": "attached", "runs": runs, "cold": True},
        # The first of these fills the cache again; it is not counted.
        {
            "name": "pylsm, warm",
            "command": attach,
            "ready": "attached",
            "runs": runs + 1,
            "discard": 1,
            "phases": True,
        },
        # Needs the calls that were recorded of the one before.
        {"name": floor.NOTHING, "command": ["python3", "-m", floor.EMPTY], "ready": "attached", "runs": runs},
        {"name": floor.CALLS_ALONE, "command": ["python3", "-m", floor.REPLAY], "ready": "attached", "runs": runs},
        {"name": "pylsm, warm, console script", "command": script, "ready": "attached", "runs": runs},
        # The first of these fills the cache for its kinds.
        {"name": "pylsm, warm, default kinds", "command": default, "ready": "attached", "runs": runs + 1, "discard": 1},
    ]
    files = []
    if "loader" in plan.programs:
        loader = plan.programs["loader"]
        # Its first start pays for what the kernel does once; pylsm's did before.
        contenders.append(
            {"name": "C, libbpf", "command": [str(loader)], "ready": "\n", "runs": runs + 1, "discard": 1}
        )
        files.append(loader)
    if "bpftrace" in plan.peers:
        peer = plan.peers["bpftrace"]
        command = [str(peer.program), "-B", "none", str(SOURCES / "probe.bt"), "ME"]
        contenders.append(_by_event("bpftrace", command, peer, 1 if plan.quick else 2))
        files += peer.files
    if "bcc" in plan.peers and not plan.quick:
        peer = plan.peers["bcc"]
        contenders.append(_by_event("BCC", ["python3", str(peer.program), "ME"], peer, 1))
        files += peer.files
    return machine.run("startup", [json.dumps(contenders)], files=files, memory=3072, timeout=1200)


def _by_event(name: str, command: list[str], peer: Peer, runs: int) -> dict[str, Any]:
    return {"name": name, "command": command, "ready": "event", "runs": runs, "environment": peer.environment}


def _reader(plan: Plan) -> Any:
    from tools.benchlib import reader  # needs root and construct: only when asked for

    return reader.measure(plan.quick)


def _burst(plan: Plan) -> Any:
    from tools.benchlib import burst

    work = plan.programs["work"]
    found = {"this kernel": burst.measure(work)}
    machines: dict[str, dict[str, Any]] = {"2 processors": {"icount": False, "cpus": 2}}
    if not plan.quick:
        machines["1 processor, --icount"] = {}
    for name, how in machines.items():
        found[f"machine, {name}"] = machine.run("burst", [work], files=[work], memory=2048, **how)["bursts"]
    return found


def _peers(plan: Plan) -> Any:
    from tools.benchlib import slowdown

    work = plan.programs["work"]
    runs = 3 if plan.quick else 5
    inside, files = _contenders(plan, in_machine=True)
    return {
        "machine": machine.run(
            "slowdown", [json.dumps(inside), work, runs], files=[work, *files], memory=2048, timeout=1500
        ),
        "native": slowdown.measure(_contenders(plan, in_machine=False)[0], work, runs, 2),
    }


def _contenders(plan: Plan, in_machine: bool) -> tuple[list[dict[str, Any]], list[Path]]:
    """Who watches the workload, and the files that takes. Natively only what this kernel allows and nobody else uses:
    the audit subsystem is one for all.
    """
    attach = ["python3" if in_machine else sys.executable, "-m", "pylsm", "attach", "-p", "PID"]
    found: list[dict[str, Any]] = [
        {"name": "nothing", "kind": "none"},
        {"name": "pylsm", "kind": "agent", "command": [*attach, "--format", "json"], "ready": "attached"},
    ]
    files: list[Path] = []
    if "strace" in plan.peers:
        peer = plan.peers["strace"]
        for name, option in (("strace -f", []), ("strace -f --seccomp-bpf", ["--seccomp-bpf"])):
            wrap = [str(peer.program), "-f", *option, "-e", "trace=openat,connect", "-o", "/tmp/bench-output"]
            found.append({"name": name, "kind": "wrap", "wrap": wrap})
        files += peer.files
    if in_machine and "bpftrace" in plan.peers:
        peer = plan.peers["bpftrace"]
        command = [str(peer.program), str(SOURCES / "probe.bt"), "PID"]
        found.append(
            {
                "name": "bpftrace",
                "kind": "agent",
                "command": command,
                "ready": "Attaching",
                "settle": 3.0,  # it says so before it does so
                "environment": peer.environment,
            }
        )
        files += peer.files
    if in_machine and "auditd" in plan.peers:
        peer = plan.peers["auditd"]
        # Last: what audit sets up for a process stays.
        found.append(
            {
                "name": "auditd",
                "kind": "auditd",
                "daemon": str(peer.program),
                "control": str(peer.files[1]),
                "environment": peer.environment,
            }
        )
        files += peer.files
    return found, files


def _scale(plan: Plan) -> Any:
    work = plan.programs["work"]
    result = machine.run("scale", [work, 1 if plan.quick else 3], files=[work], memory=2048, timeout=2400)
    result["cpus"] = machine.run("cpus", [work, 3 if plan.quick else 7], files=[work], icount=False, cpus=8)
    return result


SECTIONS = (
    Section("hooks", "cost per system call, and the programs' sizes, beside the C probe (machine, --icount)", _hooks),
    Section("startup", "from exec to live, and peak memory, beside C, bpftrace, BCC (machine, --icount)", _startup),
    Section("reader", "records/s to events, lines/s to JSON, latency, idle CPU (this kernel, as root)", _reader),
    Section("burst", "100,000 opens traced with defaults: nothing may be lost (this kernel and machine)", _burst),
    Section("peers", "a workload under pylsm, strace, bpftrace, auditd (machine --icount, this kernel)", _peers),
    Section("scale", "cost by size of the family, opens remembered, rules, processors (machine)", _scale),
)
