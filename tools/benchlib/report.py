"""Results → docs/performance.md and its pictures."""

from __future__ import annotations

from typing import Any

from tools.benchlib import CHECKOUT
from tools.benchlib.sections import SECTIONS
from tools.benchlib.show import NAMES, tables, verdicts
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
    if "failed" in result:
        return {}
    if section == "hooks":
        cost = result["cost"]
        probes = [probe for probe in ("pylsm", "c") if probe in cost]
        groups = [(cell, [(NAMES[probe], body(cost, probe, cell)) for probe in probes]) for cell in cost[probes[0]]]
        return {"hooks": bars("What a probe adds to a system call", groups, "guest instructions over empty programs")}
    if section == "reader":
        sizes = Line("pylsm", [(each["bytes"], sample(each["rates"]).median) for each in result["sizes"]])
        return {"record-size": curves("Records decoded", [sizes], "bytes per record", "records/s")}
    return {}
