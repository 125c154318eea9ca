"""What this interpreter needs to run elsewhere: its own files, the standard library, a few distributions."""

from __future__ import annotations

import importlib
import marshal
import os
import re
import struct
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib import metadata
from importlib.machinery import SourceFileLoader
from importlib.metadata import Distribution
from importlib.util import MAGIC_NUMBER, cache_from_source, source_hash
from pathlib import Path
from typing import Any

from . import CHECKOUT, MachineError

__all__ = [
    "Distribution",
    "base_executable",
    "bytecode",
    "closure",
    "distribution_files",
    "interpreter_files",
    "pytest_plugins",
    "required",
    "rewritten",
]

# They look at code and at output, outside: 80 MB that no command inside a machine needs, part of it compiled for one
# architecture.
OUTSIDE = frozenset({"mypy", "ruff", "jsonschema", "ocsf-json-schema", "selenium"})
# Never imported by a program here: tests, graphics, installers.
NOT_LIBRARY = re.compile(
    r"__pycache__|ensurepip|idlelib|lib2to3|pydoc_data|site-packages|tests?|tkinter|turtledemo|config-.*"
    r"|_tkinter\..*|_test.*\.so|_ctypes_test\..*|xx.*\.so"
)


def required(pyproject: Path = CHECKOUT / "pyproject.toml", extra: str = "test") -> list[str]:
    """Names of the distributions that the project and its extra ask for."""
    try:
        toml: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    except ModuleNotFoundError:  # before 3.11 pytest brings it
        raise MachineError(
            f"this Python lacks the project's test extra: {sys.executable} -m pip install -e '.[test]'"
        ) from None
    project: dict[str, Any] = toml.loads(pyproject.read_text())["project"]
    wanted = project["dependencies"] + project["optional-dependencies"][extra]
    return [name for name in map(_name, wanted) if name not in OUTSIDE]


def closure(names: Iterable[str]) -> list[Distribution]:
    """Those distributions and all they require, by name, as far as they are installed.

    Markers are not evaluated, except that requirements of extras are left out: what a marker rules out
    is as a rule not installed, and does no harm where it is.
    """
    found: dict[str, Distribution] = {}
    todo = list(names)
    while todo:
        name = _name(todo.pop())
        if name in found:
            continue
        try:
            found[name] = distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        todo += [line for line in distribution.requires or [] if not re.search(r"\bextra\b", line)]
    return [found[name] for name in sorted(found)]


def distribution_files(distribution: Distribution) -> Iterator[Path]:
    """Installed files, scripts such as bin/pytest among them, without compiled bytecode."""
    for file in distribution.files or []:
        path = Path(os.path.abspath(str(distribution.locate_file(file))))
        if path.suffix != ".pyc" and path.is_file():
            yield path


def interpreter_files() -> Iterator[Path]:
    """The executable (in a virtual environment: both), and the standard library."""
    yield from map(Path, sorted({sys.executable, base_executable()}))
    for configuration in (Path(sys.prefix, "pyvenv.cfg"), Path(sys.executable).parent / "pyvenv.cfg"):
        if configuration.is_file():
            yield configuration
    for library in sorted({sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}):
        for directory, children, files in os.walk(library):
            children[:] = sorted(name for name in children if not NOT_LIBRARY.fullmatch(name))
            for name in sorted(files):
                if not NOT_LIBRARY.fullmatch(name):
                    yield Path(directory, name)


def base_executable() -> str:
    """In a virtual environment, the Python that it was made with."""
    path: str = getattr(sys, "_base_executable", sys.executable)
    return path


def bytecode(source: Path, checked: bool, at: str = "") -> tuple[str, bytes] | None:
    """Path and contents of a module's .pyc, valid by the source's hash (PEP 552) and not by its time.

    The module will lie at `at`, by default where it lies.

    A checked one is compared with the source at import, so that an edit inside the machine counts. The
    code comes from this machine's own .pyc when that is fresh. None for a file that does not compile.
    """
    loader = SourceFileLoader("module", str(source))
    try:
        # Twice: code just compiled marshals to other bytes than code from a .pyc, and machines that count
        # instructions ought to be equal to the byte.
        loader.get_code("module")
        code = loader.get_code("module")
    except (SyntaxError, ValueError):
        return None
    flags = 0b11 if checked else 0b01
    header = MAGIC_NUMBER + struct.pack("<I", flags) + source_hash(source.read_bytes())
    return cache_from_source(at or str(source)), header + marshal.dumps(code)


def rewritten(source: Path) -> tuple[str, bytes] | None:
    """Path and contents of the .pyc that pytest keeps of a module with its asserts rewritten, which takes long there.

    It is valid by the source's hash. One that is missing here, or of an older source, is made as pytest would make it.
    None for a file that does not compile, and where pytest is not installed or does this in another way.
    """
    try:
        rewrite: Any = importlib.import_module("_pytest.assertion.rewrite")
        pyc = source.parent / "__pycache__" / (source.stem + rewrite.PYC_TAIL)
        if rewrite._read_pyc(source, pyc) is None:
            digest, code = rewrite._rewrite_test(source, None)
            data: bytes = MAGIC_NUMBER + struct.pack("<I", 0b11) + digest + marshal.dumps(code)
            with suppress(OSError):
                pyc.parent.mkdir(exist_ok=True)
                part = pyc.with_name(f"{pyc.name}.{os.getpid()}")
                part.write_bytes(data)
                part.rename(pyc)
            return str(pyc), data
        return str(pyc), pyc.read_bytes()
    except (ImportError, AttributeError, TypeError, ValueError, SyntaxError, OSError):
        return None


def pytest_plugins(distributions: Iterable[Distribution]) -> list[str]:
    """Modules that distributions bring along for pytest."""
    return sorted(point.value for each in distributions for point in each.entry_points if point.group == "pytest11")


def _name(requirement: str) -> str:
    """The normalised name (PEP 503) at the start of a requirement (PEP 508)."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    if not match:
        raise ValueError(f"not a requirement: {requirement!r}")
    return re.sub(r"[-_.]+", "-", match[0]).lower()
