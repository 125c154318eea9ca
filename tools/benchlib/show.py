"""Results → tables: what the terminal shows, and docs/performance.md repeats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from pylsm.audit import maps
from pylsm.audit.records import SEEN_SET
from tools.benchlib.floor import CALLS_ALONE, NOTHING
from tools.benchlib.helpers import ALL, PARTS, WITH_COMPONENT
from tools.benchlib.stats import TIMES, sample
from tools.benchlib.tables import Table
from tools.benchlib.targets import C_PROBE, Verdict, body, helper

__all__ = ["NAMES", "WORKLOADS", "floor", "percentile", "tables", "verdicts"]

#: probe as the result names it → as the reader should know it
NAMES = {
    "none": "no probe",
    "empty": "empty programs",
    "pylsm": "pylsm, full path",
    "c": "C probe, last component",
}


def tables(section: str, result: Any) -> list[Table]:
    """The tables of a section's result."""
    if "failed" in result:
        return [Table(section, ("not measured",), [(result["failed"].splitlines()[0],)])]
    return _TABLES.get(section, partial(_plain, section))(result)


def verdicts(found: Sequence[Verdict]) -> Table:
    """Targets, what was measured, and whether it is enough."""
    return Table("Targets of issue 5", ("target", "measured", "wanted", ""), [verdict.row for verdict in found])


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _ratio(value: float) -> str:
    return f"{value:.2f}{TIMES}"


def _hooks(result: dict[str, Any]) -> list[Table]:
    cost, programs = result["cost"], result["programs"]
    cells = [f"{name}, {traced}" for name in ("same", "new", "connect") for traced in ("untraced", "traced")]
    whole = [
        (NAMES[probe], *(f"{min(cost[probe][cell]):,.0f}" if cell in cost[probe] else "" for cell in cells))
        for probe in NAMES
        if probe in cost
    ]
    bodies = []
    for probe in ("pylsm", "c"):
        if probe in cost:
            shown = []
            for cell in cells:
                own = body(cost, probe, cell)
                over = f" ({_ratio(own / body(cost, 'c', cell))})" if "c" in cost and probe != "c" else ""
                shown.append(f"{own:,.0f}{over}")
            bodies.append((NAMES[probe], *shown))
    sizes = []
    for hook, (slots, verified) in C_PROBE.items():
        for probe in ("pylsm", "c"):
            info = programs.get(probe, {}).get(hook)
            if info:
                sizes.append(
                    (hook, NAMES[probe], *(str(info[key]) for key in ("slots", "verified", "xlated", "jited")))
                )
        sizes.append((hook, "C probe in issue 5", str(slots), str(verified), "", ""))
    runs = len(cost["none"]["same, untraced"])
    family = [
        (name, *(str(info[key]) for key in ("slots", "verified", "xlated", "jited")))
        for name, info in programs["pylsm"].items()
        if name not in C_PROBE
    ]
    return [
        Table(
            f"Guest instructions per system call (kernel {result['kernel']})",
            ("probe", *cells),
            whole,
            [f"The fewest of {runs} runs of {result['rounds']} calls each: nothing interrupted that run."],
        ),
        Table("The same over empty programs, and over the C probe", ("probe", *cells), bodies),
        *_helpers(result),
        Table("Size of the programs", ("hook", "probe", "slots", "verified", "xlated", "jited bytes"), sizes),
        Table("Programs that keep the family", ("program", "slots", "verified", "xlated", "jited bytes"), family),
    ]


def _helpers(result: dict[str, Any]) -> list[Table]:
    """What of the cost of a file opened first is the kernel's own."""
    if "helpers" not in result or "c" not in result["cost"]:
        return []
    cost = result["cost"]
    c = body(cost, "c", "new, traced")
    found = [(text, helper(result, name)) for name, text in PARTS.items()]
    found.append(("all of that, with the full path", helper(result, *ALL)))
    found.append(("all of that, with the last component", helper(result, *WITH_COMPONENT)))
    found += [(f"{NAMES[probe]}: all", body(cost, probe, "new, traced")) for probe in ("pylsm", "c")]
    return [
        Table(
            "A new file: what the kernel's helpers cost alone, over an empty program, and over the C probe",
            ("what", "instructions", "over C"),
            [(what, f"{own:,.0f}", _ratio(own / c)) for what, own in found],
            [
                "Programs that call these helpers and do nothing else. pylsm records full paths only, and with one no "
                f"record costs less than {_ratio(helper(result, *ALL) / c)}, whatever else the program does. So issue "
                f"5's {_ratio(0.6)} is of records of the last component: pylsm is held against it less d_path's share."
            ],
        )
    ]


def _startup(result: dict[str, Any]) -> list[Table]:
    starts = result["starts"]
    base = sample(starts["C, libbpf"]["ms"]) if "ms" in starts.get("C, libbpf", {}) else None
    rows = []
    for name, each in starts.items():
        if "failed" in each:
            rows.append((name, "failed", "", each["failed"][:60]))
            continue
        took = sample(each["ms"])
        peak = max(each["rss_kb"]) / 1024
        rows.append((name, str(took), _ratio(took.over(base)) if base else "", f"{peak:.1f}" if peak else ""))
    return [
        Table(
            f"From exec to live, in million guest instructions (kernel {result['kernel']})",
            ("what", "M instructions", "over C", "peak RSS, MB"),
            rows,
            [
                "pylsm records connects and opens as the C probe does, unless said otherwise. It is live when it "
                "says so, which is after its self-test; the C loader when both programs are attached; bpftrace and BCC "
                "when they show the first open."
            ],
        ),
        *_phases(result),
        *_floor(result),
    ]


def _phases(result: dict[str, Any]) -> list[Table]:
    """Where a warm start goes, and what of it no change to pylsm can spare."""
    if "phases" not in result:
        return []
    starts, at, spent = result["starts"], result["phases"]["at"], result["phases"]["bpf"]
    interpreter = at["interpreter"]
    runpy = sample(starts["python -c 'import runpy'"]["ms"]).median - sample(starts["python -c pass"]["ms"]).median
    kernel = sum(spent.values())
    modules = at["modules"] - interpreter
    own = at["live"] - at["modules"] - kernel
    rows = [
        ("starting Python, up to its first line", interpreter, "Python's"),
        ("`python -m`: importing runpy", runpy, "Python's"),
        ("importing pylsm's modules, and of the library what runpy has not", modules - runpy, "pylsm's"),
        ("reading options and the image, self-test, the family", own, "pylsm's"),
        ("bpf(2): creating maps", spent["MAP_CREATE"], "the kernel's"),
        ("bpf(2): loading, verifying programs", spent["PROG_LOAD"] + spent["BTF_LOAD"], "the kernel's"),
        ("bpf(2): attaching", spent["RAW_TRACEPOINT_OPEN"], "the kernel's"),
        (
            "bpf(2): all else",
            kernel - sum(spent[name] for name in ("MAP_CREATE", "PROG_LOAD", "BTF_LOAD", "RAW_TRACEPOINT_OPEN")),
            "the kernel's",
        ),
    ]
    floor = interpreter + runpy + kernel
    base = sample(starts["C, libbpf"]["ms"]).median if "ms" in starts.get("C, libbpf", {}) else 0.0
    over = f", {_ratio(floor / base)} of the whole C loader" if base else ""
    return [
        Table(
            "Where a warm start goes",
            ("what", "M instructions", "whose"),
            [(what, f"{took:,.1f}", whose) for what, took, whose in rows],
            [
                f"Python's and the kernel's share alone is {floor:,.0f} M{over}: no code of pylsm's is in it. "
                "Who attaches the first program to a function's entry sleeps until every task has left the code that "
                "was used before (synchronize_rcu_tasks), although the program runs by then. The C loader waits for "
                "that; pylsm lets a thread wait, and goes on as soon as its self-test has seen the program at work."
            ],
        )
    ]


def _floor(result: dict[str, Any]) -> list[Table]:
    """The least that a start by Python can cost, and what pylsm's and the C loader's consist of."""
    starts = {name: each for name, each in result["starts"].items() if "running" in each}
    peer = "C, libbpf"
    if not {NOTHING, CALLS_ALONE, "pylsm, warm", peer} <= set(starts):
        return []
    took, ran = (
        {name: sample(starts[name][what]).median for name in starts if starts[name][what]} for what in ("ms", "running")
    )
    loading, attaching = (int(part) / 1e6 for part in starts[peer]["said"].split()[:2])
    least, ours, base = ran[CALLS_ALONE], ran["pylsm, warm"], took[peer]
    rows = [(name, took[name], ran[name]) for name in (NOTHING, CALLS_ALONE, "pylsm, warm", peer)]
    return [
        Table(
            "The least that a start by Python can cost",
            ("what", "M instructions", "of these it ran", "over C"),
            [(name, f"{whole:,.1f}", f"{own:,.1f}", _ratio(whole / base)) for name, whole, own in rows],
            [
                "The calls alone are those that pylsm makes until its hooks see, recorded with all that they point to "
                "and made again by a package of thirty lines that does nothing else (tools/benchlib/floor.py). "
                f"`python -m` and the kernel run for {least:,.0f} M, {_ratio(least / base)} of the C loader; what "
                f"pylsm runs beyond, {ours - least:,.0f} M, is its own: options, checks, what is kept of maps and "
                f"programs, the self-test and the family. Of the C loader's {base:,.0f} M, opening and loading are "
                f"{loading:,.0f} M and attaching {attaching:,.0f} M. What does not run waits for the kernel's grace "
                "periods, which end on ticks of 4 M; pylsm does not, but they take from its processor what they run."
            ],
        )
    ]


def _reader(result: dict[str, Any]) -> list[Table]:
    base = sample(result["decode"]["pylsm"])
    rows = []
    for name, rates in {**result["decode"], **result["reference"]}.items():
        rate = sample(rates)
        rows.append((name, str(rate), _ratio(rate.over(base))))
    for medium, rates in result["lines"].items():
        rate = sample(rates)
        rows.append((f"pylsm, JSON lines on {medium}", str(rate), _ratio(rate.over(base))))
    sizes = [
        (
            f"{each['bytes']:,.0f}",
            str(sample(each["rates"])),
            f"{sample(each['rates']).median * each['bytes'] / 1e6:,.0f}",
        )
        for each in result["sizes"]
    ]
    late = [
        (name, f"{len(values):,}", *(f"{percentile(values, share):,.0f}" for share in (0.5, 0.9, 0.99, 0.999)))
        for name, values in result["latency_us"].items()
    ]
    return [
        Table(
            f"Records per second of processor time (records of {result['record_bytes']:.0f} bytes on average)",
            ("what", "per second", "over pylsm"),
            rows,
            [
                "Real records, in a real ring, written there by the kernel. The events of pylsm are decoded where they "
                "are read: the second line reads all 13 fields of each event. What that costs at the least is shown by "
                "an object that holds 13 values, made and read."
            ],
        ),
        Table("Records per second by record size", ("bytes", "records/s", "MB/s"), sizes),
        Table(
            "Microseconds from record to line, at the reader of a pipe",
            ("agent", "lines", "50 %", "90 %", "99 %", "99.9 %"),
            late,
            ["Idle: an open every 5 ms. Loaded: opens as fast as they come."],
        ),
        Table(
            "An idle agent",
            ("what", "measured"),
            [
                ("processor", f"{result['idle_percent']:.2f} %"),
                ("peak RSS", f"{result['idle_rss_kb'] / 1024:.1f} MB"),
            ],
        ),
    ]


def _burst(result: dict[str, Any]) -> list[Table]:
    rows = [
        (
            where,
            name,
            *(f"{each[key]:,}" for key in ("opens", "recorded", "lost", "lines")),
            f"{each['peak_kb'] / 1024:.0f}",
            f"{each['ns_per_open']:,.0f}",
        )
        for where, bursts in result.items()
        for name, each in bursts.items()
    ]
    return [
        Table(
            "Opens of different files, as fast as one process can, pylsm with defaults",
            ("where", "what", "opens", "recorded", "lost", "lines", "peak RSS, MB", "ns per open"),
            rows,
            [
                "A line takes longer than a record: what the ring (4 MiB) has no room for waits in memory, 32 MiB of "
                "records at most. With --icount a nanosecond is a guest instruction, and reader and workload share one "
                "processor. Usual paths have 104 bytes, as those of `find /` on average."
            ],
        )
    ]


#: workload as the result names it → as the reader should know it
WORKLOADS = {"same": "open, same file", "new": "open, new file", "connect": "connect"}


def _peers(result: dict[str, Any]) -> list[Table]:
    out = []
    for where, title, unit in (
        ("machine", "in the machine, one processor, --icount", "guest instructions"),
        ("native", "this kernel", "nanoseconds"),
    ):
        contenders = result[where]["contenders"]
        base = contenders["nothing"]
        rows = []
        for name, each in contenders.items():
            if "failed" in each:
                rows.append((name, "failed", *[""] * (len(WORKLOADS)), each["failed"].splitlines()[0][:60]))
                continue
            cells = []
            for workload in WORKLOADS:
                cost = sample(each[workload])
                cells.append(f"{cost} ({_ratio(cost.over(sample(base[workload])))})")
            shown = f"{each['files']:,} of {result[where]['files']:,}" if name != "nothing" else ""
            rows.append((name, *cells, f"{each['lines']:,}", shown))
        out.append(
            Table(
                f"A call of the workload under each tool, in {unit}: {title}",
                ("watched by", *WORKLOADS.values(), "lines", "new files shown"),
                rows,
                [
                    "The tool's own work is included where it shares the processor; "
                    f"{result[where]['rounds']:,} calls a run, in brackets over the workload that nobody watches."
                ],
            )
        )
    return out


_CELLS = ("same, untraced", "same, traced", "connect, untraced", "connect, traced")


def _scale(result: dict[str, Any]) -> list[Table]:
    empty = result["family"]["empty"]
    families = [
        (
            f"{point['size']:,}",
            *(f"{sample(point['cost'][cell]).median - floor(empty, cell):,.0f}" for cell in _CELLS),
        )
        for point in result["family"]["sizes"]
    ]
    opens = [
        (
            f"{point['opens']:,}",
            f"{point['pylsm, new'] - point['empty, new']:,.0f}",
            f"{point['pylsm, again'] - point['empty, again']:,.0f}",
            *(f"{point[key]:,}" for key in ("recorded", "deduplicated", "lost")),
        )
        for point in result["opens"]
    ]
    rules = [
        (
            kind,
            f"{point['size']:,}" if point["size"] else "no such filter",
            f"{sample(point['cost']).median - sample(found['empty']).median:,.0f}",
        )
        for kind, found in result["rules"].items()
        for point in found["sizes"]
    ]
    cpus = [(str(point["cpus"]), *(str(sample(point[cell])) for cell in _CELLS)) for point in result["cpus"]["points"]]
    return [
        Table(
            f"Guest instructions over empty programs, by processes in the family (kernel {result['kernel']})",
            ("processes", *_CELLS),
            families,
        ),
        Table(
            "Guest instructions over empty programs, by files that one process has opened before",
            ("files", "each for the first time", "each again", "recorded", "deduplicated", "lost"),
            opens,
            [
                f"The table has {maps.SEEN.value_size // SEEN_SET.size:,} sets of the two latest fingerprints. What "
                "finds no room in its set is recorded again when it is opened again."
            ],
        ),
        Table(
            "Guest instructions over empty programs, by rules in a trie that refuse something else",
            ("rules of", "how many", "an open of a new file, or a connect"),
            rules,
            ["Those of paths are looked through for an open of a new file, those of destinations for a connect."],
        ),
        Table(
            "Time over that without pylsm, all processors busy at once",
            ("processors", *_CELLS),
            cpus,
            ["Without --icount, and more processors than this computer has: only ratios of turns taken mean anything."],
        ),
    ]


def floor(empty: dict[str, list[float]], cell: str) -> float:
    """What a call costs with empty programs; whether it is traced makes no difference to them."""
    return sample(empty[f"{cell.split(',')[0]}, untraced"]).median


def _plain(section: str, result: Any) -> list[Table]:
    """Any result as it is: the way to each number, and the number (the median of several)."""
    rows: list[tuple[str, str]] = []

    def walk(where: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{where} {key}".strip(), inner)
        elif isinstance(value, list) and value and all(isinstance(each, (int, float)) for each in value):
            rows.append((where, str(sample(value))))
        elif isinstance(value, list):
            for index, inner in enumerate(value):
                walk(f"{where} {index}", inner)
        else:
            rows.append((where, f"{value:,.1f}" if isinstance(value, float) else str(value)))

    walk("", result)
    return [Table(section, ("what", "measured"), rows)]


_TABLES: dict[str, Callable[[Any], list[Table]]] = {
    "hooks": _hooks,
    "startup": _startup,
    "reader": _reader,
    "burst": _burst,
    "peers": _peers,
    "scale": _scale,
}
