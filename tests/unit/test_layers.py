"""Imports point down only (docs/architecture.md)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "pylsm"

#: What a package may import of the others. `pylsm` itself is the version, `errors` the root of the exceptions;
#: `light` stands for the standard library's typing and enum, for all; `libc` for its ctypes.
ALLOWED = {
    "errors": set(),
    "light": set(),
    "arch": {"errors", "calls"},
    "calls": set(),
    "toml": {"errors"},
    "libc": set(),
    "btf": {"errors"},
    "maptype": set(),
    "asm": {"errors", "btf", "maptype"},
    "record": {"errors", "btf"},
    "loader": {"errors", "arch", "libc", "maptype", "btf", "asm"},
    "audit": {"", "errors", "arch", "libc", "btf", "asm", "record", "loader"},
    "research": {"errors", "asm", "loader"},
    "output": {"", "audit"},
    "recording": {"", "errors", "audit", "output", "toml"},
    "view": {"", "errors", "recording"},
    "confine": {"errors", "arch", "libc"},
    "ship": {"", "errors", "confine"},
    "cli": {"", "errors", "audit", "output", "loader", "asm", "btf", "confine", "recording", "ship", "toml", "view"},
    "__init__": {"audit"},
    "__main__": {"cli"},
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def imported(module: Path) -> set[str]:
    """Full names of all that a module imports, wherever in it; what is imported for type checkers only, too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.relative_to(PACKAGE)))
def test_imports_point_down(module: Path) -> None:
    own = module.relative_to(PACKAGE).parts[0].removesuffix(".py")
    names = [name.split(".") for name in imported(module)]
    used = {(name[1:] or [""])[0] for name in names if name[0] == "pylsm"}
    assert used - {own, "light"} <= ALLOWED[own], f"{own} reaches up or across"


@pytest.mark.parametrize("package", ["asm", "btf"])
def test_pure_packages_touch_no_kernel(package: str) -> None:
    modules = {name.split(".")[0] for module in (PACKAGE / package).rglob("*.py") for name in imported(module)}
    assert modules.isdisjoint({"ctypes", "fcntl", "select", "socket", "subprocess", "signal"})
