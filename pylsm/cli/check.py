"""``pylsm check``: what works here, and what to do about what does not."""

from __future__ import annotations

import argparse

from pylsm.cli.status import USAGE

__all__ = ["add_parser"]

_SUPPORTED, _UNSUPPORTED, _UNKNOWN = 0, 1, USAGE


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "check",
        help="say whether this machine can be audited, and what is missing",
        description="Look at privileges, kernel types and active LSMs, then attach and see whether events come.",
        epilog="exit status: 0 LSM hooks work, 1 they do not (a weaker source may), 2 that could not be told.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--prove",
        action="store_true",
        help="load pylsm's own programs, read them back from the kernel and prove that they observe only",
    )
    parser.set_defaults(handler=_check, parser=parser)


def _check(options: argparse.Namespace) -> int:
    if options.prove:
        from pylsm.cli.prove import prove

        return prove(options.json)
    from pylsm.audit.support import kernel, survey

    support = survey()
    if options.json:
        import json

        from pylsm.loader.features import cached_survey

        found = cached_survey()
        report = {
            "kernel": kernel(),
            "supported": support.supported,
            "source": support.source,
            "blind_spots": list(support.blind_spots),
            "checks": [finding._asdict() for finding in support.findings],
            "features": {
                group: {name: feature._asdict() for name, feature in rows.items()}
                for group, rows in found.features.items()
            }
            | {"helpers": found.helpers, "kfuncs": found.kfuncs},
        }
        print(json.dumps(report, indent=2))
    else:
        print(f"kernel: {kernel()}")
        for finding in support.findings:
            mark = {True: "ok", False: "NO", None: "??"}[finding.ok]
            print(f"{mark}  {finding.name}: {finding.found}")
            if finding.todo:
                print(f"      to do: {finding.todo}")
        print(_verdict(support.supported, support.source))
        if support.blind_spots:
            print("not seen by it: " + "; ".join(support.blind_spots))
    return {True: _SUPPORTED, False: _UNSUPPORTED, None: _UNKNOWN}[support.supported]


def _verdict(supported: bool | None, source: str | None) -> str:
    if supported:
        return "supported: LSM hooks work here"
    if supported is None:
        return "could not tell whether LSM hooks work here"
    return "LSM hooks do not work here" + (f"; the weaker source {source} does" if source else ", and no other source")
