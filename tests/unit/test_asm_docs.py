"""docs/reference/ says what the docstrings say, and every public name has one."""

from __future__ import annotations

import ast
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOL = runpy.run_path(str(ROOT / "tools" / "docs"), run_name="docs")
PAGES: dict[str, str] = TOOL["pages"]()
OUT = ROOT / "docs" / "reference"


@pytest.mark.parametrize("page", sorted(path.name for path in OUT.glob("*.md")))
def test_page_is_current(page: str) -> None:
    assert page in PAGES, f"the module of docs/reference/{page} is gone: run tools/docs"
    assert (OUT / page).read_text() == PAGES[page], f"docs/reference/{page} is not current: run tools/docs"


def undocumented(tree: ast.Module) -> list[str]:
    """Public functions, classes and methods without a docstring; ``__init__`` is described by its class."""
    missing = []
    for node in tree.body:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name not in TOOL["exported"](tree):
            continue
        members = node.body if isinstance(node, ast.ClassDef) else []
        for one in [node, *members]:
            if isinstance(one, (ast.FunctionDef, ast.ClassDef)) and not one.name.startswith("_"):
                is_protocol_stub = ast.unparse(one.body[-1]) == "..." and len(one.body) == 1
                if not ast.get_docstring(one) and not is_protocol_stub:
                    missing.append(f"{node.name}.{one.name}" if one is not node else node.name)
    return missing


@pytest.mark.parametrize("file", sorted((ROOT / "pylsm" / "asm").glob("*.py")), ids=lambda file: file.stem)
def test_every_public_name_is_documented(file: Path) -> None:
    assert undocumented(ast.parse(file.read_text())) == []


def test_a_page_shows_signature_and_sections() -> None:
    page = TOOL["page"](
        "pylsm.made_up",
        ast.parse(
            '"""A module."""\n__all__ = ["f"]\n'
            'def f(a: int, *, b: str = "x") -> bytes:\n'
            '    """Do ``it``.\n\n    Args:\n        a: how\n            often.\n\n'
            '    Raises:\n        ValueError: when not.\n    """\n'
        ),
    )
    assert page == (
        "# pylsm.made_up\n\nA module.\n\n## f\n\n`f(a: int, *, b: str='x') -> bytes`\n\nDo `it`.\n\n"
        "**Args**\n\n- `a`: how\n  often.\n\n**Raises**\n\n- `ValueError`: when not.\n"
    )
