"""Results → docs/performance.md and its pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tools.benchlib import CHECKOUT
from tools.benchlib.sections import SECTIONS
from tools.benchlib.show import NAMES, WORKLOADS, floor, percentile, tables, verdicts
from tools.benchlib.stats import sample
from tools.benchlib.svg import Line, bars, curves
from tools.benchlib.tables import Table, markdown
from tools.benchlib.targets import body, judge

__all__ = ["write"]

DOCUMENT = CHECKOUT / "docs/performance.md"
PICTURES = CHECKOUT / "docs/performance"

HEAD = """\
# Performance

Written by `tools/bench --docs` from the newest result of each section; the last of them is of {time}, commit {commit},
Python {python}, this kernel {kernel}, {processors} processors. Each section has its command. What runs in the kernel is
counted in guest instructions (`tools/vm --icount`); natively measured rates are per second of processor time.
"""


def write(results: dict[str, Any]) -> None:
    """Write the document and the pictures of the sections that were measured."""
    PICTURES.mkdir(exist_ok=True)
    about = results["about"]
    out = [HEAD.format(**about)]
    out += [f"Not measured for want of {name}: {reason}\n" for name, reason in about["missing"].items()]
    found = judge(results)
    if found:
        out += ["## Targets\n", _part(verdicts(found))]
    for section in SECTIONS:
        if section.name not in results:
            continue
        out.append(f"## {section.name}: {section.about}\n\n`tools/bench {section.name}`\n")
        result = results[section.name]
        for name, picture in _pictures(section.name, result).items():
            (PICTURES / f"{name}.svg").write_text(picture)
            out.append(f"![{name}](performance/{name}.svg)\n")
        out += [_part(table) for table in tables(section.name, result)]
    DOCUMENT.write_text("\n".join(out))


def _part(table: Table) -> str:
    return f"### {table.title}\n\n{markdown(table)}"


def _pictures(section: str, result: Any) -> dict[str, str]:
    """Pictures of a section by file name."""
    if "failed" in result or section not in _PICTURES:
        return {}
    return _PICTURES[section](result)


def _hooks(result: dict[str, Any]) -> dict[str, str]:
    cost = result["cost"]
    probes = [probe for probe in ("pylsm", "c") if probe in cost]
    groups = [(cell, [(NAMES[probe], body(cost, probe, cell)) for probe in probes]) for cell in cost[probes[0]]]
    return {"hooks": bars("What a probe adds to a system call", groups, "guest instructions over empty programs")}


def _startup(result: dict[str, Any]) -> dict[str, str]:
    starts = {name: each for name, each in result["starts"].items() if "ms" in each}
    took = [(name, [("from exec to live", sample(each["ms"]).median)]) for name, each in starts.items()]
    used = [
        (name, [("peak RSS", max(each["rss_kb"]) / 1024)]) for name, each in starts.items() if max(each["rss_kb"]) > 0
    ]
    return {
        "startup": bars("From exec to live", took, "million guest instructions"),
        "startup-memory": bars("Peak RSS of a start", used, "MB"),
    }


def _reader(result: dict[str, Any]) -> dict[str, str]:
    rates = {**result["decode"], **result["reference"]}
    rates.update({f"JSON lines on {medium}": each for medium, each in result["lines"].items()})
    groups = [(name, [("records/s", sample(each).median)]) for name, each in rates.items()]
    sizes = Line("pylsm", [(each["bytes"], sample(each["rates"]).median) for each in result["sizes"]])
    late = [
        Line(name, [(percentile(values, share / 1000), share / 10) for share in range(5, 1000, 5)])
        for name, values in result["latency_us"].items()
    ]
    return {
        "reader": bars("Records decoded, per second of processor time", groups, "records/s"),
        "record-size": curves("Records decoded", [sizes], "bytes per record", "records/s"),
        "latency": curves("From record to line, at the reader of a pipe", late, "microseconds", "% of the lines"),
    }


def _burst(result: dict[str, Any]) -> dict[str, str]:
    groups = [
        (f"{where}: {number}", [(key, float(each[key])) for key in ("recorded", "lost")])
        for where, bursts in result.items()
        for number, each in enumerate(bursts.values(), 1)
    ]
    return {"burst": bars("Bursts of opens, in the order of the table", groups, "records")}


def _peers(result: dict[str, Any]) -> dict[str, str]:
    out = {}
    for where, unit in (("machine", "guest instructions"), ("native", "nanoseconds")):
        contenders = {name: each for name, each in result[where]["contenders"].items() if "failed" not in each}
        groups = [
            (name, [(words, sample(each[workload]).median) for workload, words in WORKLOADS.items()])
            for name, each in contenders.items()
        ]
        out[f"peers-{where}"] = bars(f"A call under each tool ({where})", groups, f"{unit} per call")
    return out


def _scale(result: dict[str, Any]) -> dict[str, str]:
    empty, sizes = result["family"]["empty"], result["family"]["sizes"]
    cells = list(sizes[0]["cost"])
    family = [
        Line(cell, [(point["size"], sample(point["cost"][cell]).median - floor(empty, cell)) for point in sizes])
        for cell in cells
    ]
    opens = [
        Line(words, [(point["opens"], point[f"pylsm, {when}"] - point[f"empty, {when}"]) for point in result["opens"]])
        for when, words in (("new", "for the first time"), ("again", "again"))
    ]
    rules = [
        Line(
            f"rules of {kind}",
            [
                (point["size"], sample(point["cost"]).median - sample(found["empty"]).median)
                for point in found["sizes"]
                if point["size"]
            ],
        )
        for kind, found in result["rules"].items()
    ]
    points = result["cpus"]["points"]
    cpus = [
        Line(cell, [(point["cpus"], sample(point[cell]).median) for point in points])
        for cell in points[0]
        if cell != "cpus"
    ]
    over = "instructions over empty programs"
    return {
        "scale-family": curves("Cost by size of the family", family, "processes", over),
        "scale-opens": curves("Cost by files opened before", opens, "files", over),
        "scale-rules": curves("Cost by rules in a trie", rules, "rules", over),
        "scale-cpus": curves("Cost by processors", cpus, "processors", "time over that without pylsm", mark=1.0),
    }


_PICTURES: dict[str, Callable[[dict[str, Any]], dict[str, str]]] = {
    "hooks": _hooks,
    "startup": _startup,
    "reader": _reader,
    "burst": _burst,
    "peers": _peers,
    "scale": _scale,
}
