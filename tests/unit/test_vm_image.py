"""tools/vm: what goes into a machine: distributions, bytecode, the checkout, kernel modules."""

from __future__ import annotations

import importlib.util
import lzma
import marshal
import subprocess
import sys
from pathlib import Path

import pytest
from _pytest.assertion import rewrite

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from vmlib import CHECKOUT, MachineError, image, modules, python


def names(wanted: list[str]) -> set[str]:
    return {dist.metadata["Name"].lower() for dist in python.closure(wanted)}


def test_required_reads_the_project_and_its_extra(tmp_path: Path) -> None:
    project = tmp_path / "pyproject.toml"
    project.write_text(
        '[project]\ndependencies = ["Con_Struct>=2", "a.b; python_version < \'4\'"]\n'
        '[project.optional-dependencies]\ntest = ["pytest[x]>=8", "mypy", "ruff"]\n'
    )
    assert python.required(project) == ["con-struct", "a-b", "pytest"], "what only reads code stays outside"


def test_closure_follows_requirements_and_not_extras() -> None:
    found = names(["pytest"])
    assert {"pytest", "pluggy", "iniconfig", "packaging"} <= found
    assert not {"setuptools", "mock", "numpy"} & found


def test_closure_of_this_project_is_small() -> None:
    found = names(python.required())
    assert {"construct", "pyelftools", "pytest", "hypothesis"} <= found
    assert not {"numpy", "mypy", "ruff", "pip"} & found


def test_closure_leaves_out_what_is_not_installed() -> None:
    assert names(["no-such-distribution-anywhere"]) == set()


def test_distribution_files_are_whole_modules_without_bytecode() -> None:
    [pluggy] = python.closure(["pluggy"])
    files = list(python.distribution_files(pluggy))
    assert any(path.name == "_hooks.py" for path in files)
    assert all(path.is_absolute() and path.is_file() and path.suffix != ".pyc" for path in files)


def test_standard_library_without_its_tests() -> None:
    files = {str(path) for path in python.interpreter_files()}
    assert any(path.endswith("/json/decoder.py") for path in files)
    assert sys.executable in files
    assert not any("/test/" in path or "site-packages" in path or "_tkinter" in path for path in files)


@pytest.mark.parametrize(("checked", "flags"), [(True, 3), (False, 1)])
def test_bytecode_is_valid_by_hash(tmp_path: Path, checked: bool, flags: int) -> None:
    source = tmp_path / "module.py"
    source.write_bytes(b"answer = 42\n")
    made = python.bytecode(source, checked)
    assert made is not None
    path, pyc = made
    assert path == importlib.util.cache_from_source(str(source))
    assert pyc[:4] == importlib.util.MAGIC_NUMBER
    assert int.from_bytes(pyc[4:8], "little") == flags
    assert pyc[8:16] == importlib.util.source_hash(source.read_bytes())
    namespace: dict[str, object] = {}
    exec(marshal.loads(pyc[16:]), namespace)
    assert namespace["answer"] == 42
    assert python.bytecode(source, checked) == made, "the same whether just compiled or not"


def test_rewritten_asserts_are_what_pytest_would_keep(tmp_path: Path) -> None:
    source = tmp_path / "test_one.py"
    source.write_text("def test_one():\n    assert 1 == 2\n")
    made = python.rewritten(source)
    assert made is not None
    path, data = made
    assert rewrite._read_pyc(source, Path(path)) is not None
    assert python.rewritten(source) == (path, data) == (path, Path(path).read_bytes())
    source.write_text("def test_one():\n    assert 1 == 3\n")
    assert rewrite._read_pyc(source, Path(path)) is None
    again = python.rewritten(source)
    assert again is not None and again[1] != data
    source.write_text("def test_one(:\n")
    assert python.rewritten(source) is None


def test_plugins_of_pytest_are_named() -> None:
    assert {"pytest_timeout", "pytest_rerunfailures"} <= set(python.pytest_plugins(python.closure(python.required())))


def test_bytecode_of_what_does_not_compile(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("def")
    assert python.bytecode(tmp_path / "bad.py", True) is None


def test_checkout_files_are_tracked_or_new_and_not_ignored(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("*.log\n")
    for name in ("tracked", "deleted", "new", "noise.log", ".hidden"):
        (tmp_path / name).write_text("")
    (tmp_path / "dangling").symlink_to("nowhere")
    git = ["git", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "tracked", "deleted"], check=True)
    (tmp_path / "deleted").unlink()
    found = {path.name for path in image.checkout_files(tmp_path)}
    assert found == {".gitignore", ".hidden", "tracked", "new", "dangling"}


def test_checkout_files_without_git(tmp_path: Path) -> None:
    for name in ("pylsm/a.py", "pylsm/__pycache__/a.pyc", ".cache/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    found = [str(path.relative_to(tmp_path)) for path in image.checkout_files(tmp_path)]
    assert found == ["pylsm/a.py"]


def test_this_checkout_lists_itself() -> None:
    assert CHECKOUT / "tools/vm" in image.checkout_files()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Modules as Debian ships them, plain and compressed: top needs middle, middle needs low-level."""

    def module(depends: str) -> bytes:
        return b"\x7fELF...\0license=GPL\0depends=" + depends.encode() + b"\0name=x\0"

    root = tmp_path / "9.9-cloud" / "modules"
    (root / "kernel/fs").mkdir(parents=True)
    (root / "kernel/fs/top.ko").write_bytes(module("middle,built-in"))
    (root / "kernel/fs/middle.ko.xz").write_bytes(lzma.compress(module("low_level")))
    (root / "kernel/fs/low-level.ko").write_bytes(module(""))
    (root / "modules.builtin").write_text("kernel/net/built-in.ko\n")
    return root


def test_modules_come_after_what_they_need(tree: Path) -> None:
    loaded = modules.closure(tree, ["top", "low-level"])
    assert [name for name, _ in loaded] == ["low_level.ko", "middle.ko", "top.ko"]
    assert all(data.startswith(b"\x7fELF") for _, data in loaded), "decompressed"


def test_modules_built_in_need_no_file(tree: Path) -> None:
    assert modules.closure(tree, ["built_in"]) == []
    assert modules.closure(tree, []) == []


def test_unknown_module_is_named(tree: Path) -> None:
    with pytest.raises(MachineError, match=r"kernel 9\.9-cloud has no module nonesuch"):
        modules.closure(tree, ["nonesuch"])
