"""The budgets of the regression net: what the programs may cost, in one file, exact where the kernel is exact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pylsm.asm import Program
from pylsm.audit.sources import SOURCES, Variant, family_programs
from tools.benchlib.stats import sample

__all__ = ["FILE", "HOW", "TOLERANCE", "exceeded", "load", "programs_of", "shipped_slots", "write"]

FILE = Path(__file__).parent / "budgets.json"
#: What a whole system call may cost more than its budget: the kernel's own share of it is not the same to the digit in
#: every image of the machine.
TOLERANCE = 0.01
HOW = (
    "A change that makes a program longer or dearer raises its budget in the same commit and says why; one that makes "
    "it shorter lowers it, so that the gain is kept. Both are done by: tools/bench --write-budgets"
)


def programs_of(source: str, variant: Variant) -> list[Program]:
    """All programs that an audit loads for a variant of a source."""
    chosen = next(each for each in SOURCES if each.name == source)
    return [*family_programs(), *chosen.programs(variant), chosen.walker(variant)]


def shipped_slots() -> dict[str, int]:
    """Instruction slots of every program that pylsm loads: source, variant and program → slots."""
    family = {program.name: program.slots for program in family_programs()}
    found = {f"family {name}": slots for name, slots in family.items()}
    for source in SOURCES:
        for variant in source.variants:
            for program in programs_of(source.name, variant):
                if program.name not in family:
                    found[f"{source.name} {variant.name} {program.name}"] = program.slots
    return found


def load() -> dict[str, Any]:
    """The budgets: "slots" as `shipped_slots`; "verified" by program and "cost" by workload, of kernel "kernel"."""
    found: dict[str, Any] = json.loads(FILE.read_text())
    return found


def exceeded(hooks: dict[str, Any]) -> list[str]:
    """What a result of the section "hooks" holds against the budgets; empty when they are kept."""
    budgets = load()
    if hooks["kernel"] != budgets["kernel"]:
        return [f"the budgets are those of kernel {budgets['kernel']}, this is {hooks['kernel']}. {HOW}"]
    wrong = []
    for program, info in hooks["programs"]["pylsm"].items():
        budget = budgets["verified"].get(program, 0)
        if info["verified"] != budget:
            wrong.append(f"{program}: the verifier processed {info['verified']} instructions, its budget is {budget}")
    for cell, values in hooks["cost"]["pylsm"].items():
        # The least of the runs: an interrupt can only add to it.
        cost, budget = sample(values).low, budgets["cost"].get(cell, 0)
        if abs(cost - budget) > TOLERANCE * budget:
            wrong.append(
                f"{cell}: {cost:,.0f} guest instructions per call, the budget is {budget:,.0f} ±{TOLERANCE:.0%}"
            )
    return [f"{line}. {HOW}" for line in wrong]


def write(hooks: dict[str, Any]) -> None:
    """Make a result of the section "hooks", and the programs as they are, the budgets."""
    budgets = {
        "kernel": hooks["kernel"],
        "slots": shipped_slots(),
        "verified": {name: info["verified"] for name, info in hooks["programs"]["pylsm"].items()},
        "cost": {cell: sample(values).low for cell, values in hooks["cost"]["pylsm"].items()},
    }
    FILE.write_text(json.dumps(budgets, indent=2) + "\n")
    print(f"budgets: {FILE}")
