"""C text: names for messages, definitions with offsets."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pylsm.btf import Btf, BtfNotFound, BtfWriter

# C declarations whose types are named in full by their variable; each is written back as it stands here.
DECLARATIONS = [
    "int v",
    "const int v",
    "volatile const char *v",
    "char *const v",
    "const char *const *v",
    "int v[3]",
    "int *v[3]",
    "int (*v)[3]",
    "int (*v)(void)",
    "int (*v[4])(int, char *)",
    "struct node *(*v)(struct node *, ...)",
    "void (*(*v)(int))(char)",
    "int (*(*v)[2])(void)",
    "struct node v",
    "union both *v",
    "enum colour v",
    "float v",
    "void *v",
    "char *restrict v",
    "int (*const v)(void)",
]


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
@pytest.mark.parametrize("declaration", DECLARATIONS)
def test_declarations_come_back_from_gcc(declaration: str, tmp_path: Path) -> None:
    """gcc -gbtf reads the declaration, we write it: the same text.

    (No `int v[2][3]`: before version 14, gcc wrote its dimensions in reverse, PR debug/114186.)
    """
    source = f"struct node {{ int n; }}; union both {{ int b; }}; enum colour {{ RED }}; {declaration};"
    (tmp_path / "x.c").write_text(source)
    run = subprocess.run(["gcc", "-gbtf", "-c", "-o", tmp_path / "x.o", tmp_path / "x.c"], capture_output=True)
    if run.returncode:
        pytest.skip(f"this gcc writes no BTF: {run.stderr.decode()[:100]}")
    assert Btf.from_file(tmp_path / "x.o").dump_c("v").replace("extern ", "") == f"{declaration};"


@pytest.mark.skipif(shutil.which("bpftool") is None, reason="bpftool is not installed")
def test_bpftool_writes_the_same_declarations(tmp_path: Path) -> None:
    writer = BtfWriter()
    short = writer.int_("short", 2, True)
    node = writer.reserve()
    back = writer.func_proto(writer.ptr(node), [("", writer.ptr(writer.const(node))), ("", 0)])
    writer.struct(
        "node",
        [
            ("grid", writer.array(writer.array(short, 3), 2), None),
            ("rows", writer.ptr(writer.array(writer.ptr(short), 4)), None),
            ("calls", writer.array(writer.ptr(back), 5), None),
            ("fixed", writer.const(writer.ptr(writer.volatile(short))), None),
        ],
        id=node,
    )
    (tmp_path / "x.btf").write_bytes(writer.encode())
    command = ["bpftool", "btf", "dump", "file", tmp_path / "x.btf", "format", "c"]
    theirs = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    ours = Btf(writer.encode()).dump_c("node")
    for line in ours.splitlines()[1:5]:
        declaration = line.partition("/*")[0].strip()
        # bpftool puts spaces behind stars that the kernel's style does not have
        assert declaration in theirs.replace("* (*", "*(*").replace("* const", "*const")
    assert "short grid[2][3];" in theirs


def test_definitions() -> None:
    writer = BtfWriter()
    integer = writer.int_("int", 4, True)
    char = writer.int_("char", 1, encoding=1)
    inner = writer.union("", [("as_int", integer, None), ("as_chars", writer.array(char, 4), None)])
    node = writer.reserve()
    writer.struct(
        "node",
        [
            ("next", writer.ptr(node), None),
            ("", inner, None),
            ("low", integer, None, 3),
            ("high", integer, None, 29),
            ("named", writer.struct("", [("x", char, None)]), None),
            ("unknown", writer.ptr(writer.type_tag("user", writer.fwd("later"))), None),
        ],
        id=node,
    )
    writer.typedef("node_t", node)
    writer.typedef("box_t", inner)
    writer.enum("colour", [("RED", -1), ("GREEN", 2)])
    writer.float_("double", 8)
    proto = writer.func_proto(integer, [("self", writer.ptr(node)), ("", 0)])
    func = writer.func("walk", proto, 0)
    var = writer.var("head", node, 1)
    section = writer.datasec(".data", [(var, 0, 32)])
    tag = writer.decl_tag("checked", func, 0)
    btf = Btf(writer.encode(), name="t")
    assert btf.dump_c("node").splitlines() == [
        "struct node {",
        "\tstruct node *next;            /*     0       8 */",
        "\tunion {",
        "\t\tint as_int;       /*     8       4 */",
        "\t\tchar as_chars[4]; /*     8       4 */",
        "\t}; /*     8       4 */",
        "\tint low:3;                    /*    12:0     4 */",
        "\tint high:29;                  /*    12:3     4 */",
        "\tstruct {",
        "\t\tchar x; /*    16       1 */",
        "\t} named; /*    16       1 */",
        "\tstruct later __user *unknown; /*    24       8 */",
        "",
        "\t/* size: 32 */",
        "};",
    ]
    assert btf.dump_c("node_t") == "typedef struct node node_t;"
    assert btf.dump_c("box_t").splitlines()[0] == "typedef union {"
    assert btf.dump_c("box_t").splitlines()[-1] == "} box_t;"
    assert btf.dump_c("enum colour") == "enum colour {\n\tRED = -1,\n\tGREEN = 2,\n};"
    assert btf.dump_c("walk") == "static int walk(struct node *self, ...);"
    assert btf.dump_c("head") == "struct node head;"
    assert btf.dump_c("later") == "struct later;"
    assert btf.dump_c("int") == "/* int: 32 bits in 4 bytes, signed */"
    assert btf.dump_c("double") == "/* double: 8 bytes, floating point */"
    assert btf.dump_c(section) == "/* section .data, size: 32 */\nstruct node head; /*     0      32 */"
    assert btf.dump_c(tag) == '/* tag "checked" on func walk, part 0 */'
    assert btf.dump_c(writer.ptr(node)) == "struct node *;"
    assert btf.dump_c(0) == "void;"
    with pytest.raises(BtfNotFound, match="no struct 'nod' in t; nearest: node"):
        btf.dump_c("struct nod")
