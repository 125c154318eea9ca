"""``pylsm check --prove``: that pylsm's own programs observe only, shown of what the kernel runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pylsm.cli.status import REFUSED

if TYPE_CHECKING:
    from pylsm.asm.proof import Proof
    from pylsm.audit.sources import Source, Variant
    from pylsm.loader import Object

__all__ = ["prove"]

_PROVED, _NOT_PROVED = 0, 1


def prove(as_json: bool) -> int:
    """Prove every program of every source: as sent, and, of the sources that this kernel loads, as read back from it.

    Returns:
        0 all proved and at least one source as read back; 1 a program is not proved; 125 nothing could be loaded, so
        that nothing was read back.
    """
    from pylsm.asm.proof import NotProved
    from pylsm.audit.sources import SOURCES
    from pylsm.errors import PylsmError

    status = REFUSED
    report: list[dict[str, Any]] = []
    for source in SOURCES:
        entry: dict[str, Any] = {"source": source.name, "variant": "", "loaded": False, "why": "", "programs": []}
        report.append(entry)
        try:
            variant, opened = _load(source)
        except NotProved as error:
            entry["why"] = str(error)
            status = _NOT_PROVED
            continue
        except PylsmError as error:
            entry["why"] = str(error)
            continue
        entry["variant"], entry["loaded"] = variant.name, True
        with opened:
            try:
                entry["programs"] = _read_back(opened)
            except PylsmError as error:
                entry["why"] = str(error)
                status = _NOT_PROVED if isinstance(error, NotProved) else status
                continue
        if status == REFUSED:
            status = _PROVED
    if as_json:
        print(json.dumps({"proved": status == _PROVED, "sources": report}, indent=2, default=str))
    else:
        _print(report, status)
    return status


def _load(source: Source) -> tuple[Variant, Object]:
    """The first variant of a source that loads here, proved as sent."""
    from pylsm.audit.events import choose
    from pylsm.audit.proof import require_observe_only
    from pylsm.audit.sources import LACKING
    from pylsm.loader import Object
    from pylsm.loader.bpf import kernel_release

    everything = choose(["all"])
    variants = source.variants_of(kernel_release())
    for variant in variants:
        programs = source.all(variant, everything)
        require_observe_only(programs)
        try:
            return variant, Object(programs)
        except LACKING:
            if variant is variants[-1]:
                raise
    raise AssertionError("a source without variants")


def _read_back(opened: Object) -> list[dict[str, Any]]:
    from pylsm.audit.proof import TAIL_CALLS, require_observe_only, verdict_argument
    from pylsm.btf import Btf
    from pylsm.loader.readback import prove_loaded, tags
    from pylsm.loader.relocate import resolve

    found = []
    for name, loaded in opened.programs.items():
        program = loaded.program
        assert program is not None
        (sent,) = require_observe_only([program])
        proof = prove_loaded(loaded, verdict_argument(program.section), tail_calls=TAIL_CALLS)
        descriptors = {map_name: map_.fileno() for map_name, map_ in opened.maps.items()}
        resolved = resolve(program, descriptors, Btf.kernel)
        tag = loaded.info.tag
        found.append(
            {
                "name": name,
                "section": program.section,
                "id": loaded.info.id,
                "tag": tag,
                "tag_is_of_what_was_sent": tag in tags(resolved),
                "sent": _fields(sent),
                "read_back": _fields(proof),
                "text": str(proof),
            }
        )
    return found


def _fields(proof: Proof) -> dict[str, Any]:
    fields = proof._asdict()
    fields["exits"] = [{"at": end.at, "line": str(end.line or ""), "returns": end.returns} for end in proof.exits]
    return fields


def _print(report: list[dict[str, Any]], status: int) -> None:
    for entry in report:
        print(f"source {entry['source']}" + (f", variant {entry['variant']}" if entry["variant"] else ""))
        if entry["why"]:
            print(f"  {'not proved' if entry['loaded'] else 'not loaded here'}: {entry['why']}")
        for program in entry["programs"]:
            print("  " + program["text"].replace("\n", "\n  "))
            same = "the hash of what was sent" if program["tag_is_of_what_was_sent"] else "NOT that of what was sent"
            sent = program["sent"]
            print(f"    read back from the kernel as program {program['id']}, tag {program['tag']}: {same}")
            lines = ", ".join(str(end["line"]) for end in sent["exits"] if end["line"])
            print(f"    as sent: {sent['instructions']} instructions, proved too; exits written at {lines}")
    print(
        {
            _PROVED: "proved: every program that this kernel loads returns the verdict it was given and writes only to "
            "its own memory",
            _NOT_PROVED: "NOT PROVED",
            REFUSED: "nothing could be loaded or read back here, so nothing was proved of what a kernel runs",
        }[status]
    )
