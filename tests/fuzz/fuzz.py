#!/usr/bin/env python3
"""Coverage-guided fuzzing of one target (targets.py), with atheris: pip install 'pylsm[fuzz]'.

    python tests/fuzz/fuzz.py decode -max_total_time=600
    python tests/fuzz/fuzz.py ring -runs=1000000 --grow      keep new inputs in the corpus

Further options are libFuzzer's (https://llvm.org/docs/LibFuzzer.html#options). An input that fails is written to
crash-…; put it into tests/fuzz/corpus/TARGET, where tests/fuzz/test_fuzz.py replays it, and mend the reader.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    import atheris

    # Only our code: the standard library's branches tell nothing about it.
    with atheris.instrument_imports(include=["pylsm"]):
        sys.path.insert(0, str(HERE.parents[1]))
        sys.path.insert(0, str(HERE))
        from targets import SEEDS, TARGETS

    name, options = sys.argv[1], sys.argv[2:]
    if name not in TARGETS:
        sys.exit(f"fuzz.py: there is no target {name!r}; the targets are {', '.join(TARGETS)}")
    corpus = HERE / "corpus" / name
    grow = "--grow" in options
    options = [option for option in options if option != "--grow"]
    with tempfile.TemporaryDirectory() as found:
        # New inputs go to the first directory.
        directories = [str(corpus)] if grow else [found, str(corpus)]
        seeds = Path(found, "seeds")
        seeds.mkdir()
        for number, seed in enumerate(SEEDS.get(name, list)()):
            (seeds / str(number)).write_bytes(seed)
        directories.append(str(seeds))
        words = HERE / f"{name}.dict"
        if words.exists():
            options.append(f"-dict={words}")
        # Of inputs that reach as much, those that take less time are changed more often.
        limits = ["-timeout=10", "-rss_limit_mb=1024", "-entropic_scale_per_exec_time=1"]
        atheris.Setup([sys.argv[0], *limits, *options, *directories], TARGETS[name])
        atheris.Fuzz()


if __name__ == "__main__":
    main()
