"""In the machine: the least that a start by Python can cost.

The bpf(2) calls of a warm start are recorded with all that they point to, and made again by a package that does
nothing else: its one file reads them as one piece of memory, fills in where that lies, and calls. No option is read,
nothing is checked, nothing is kept. What `python -m` of it takes beyond `python -m` of an empty package is the kernel's
work and thirty lines of Python; what pylsm takes beyond it is pylsm's.
"""

from __future__ import annotations

import os
import py_compile
import subprocess
import time
from pathlib import Path

__all__ = ["CALLS_ALONE", "EMPTY", "NOTHING", "REPLAY", "lay", "record"]

#: The packages that are started: one that is empty, and one that makes the calls.
EMPTY, REPLAY = "floor_empty", "floor_replay"
#: What they are called where they are shown.
NOTHING, CALLS_ALONE = "python -m, an empty package", "python -m, a warm start's bpf(2) calls alone"

#: Run in place of ``python -m pylsm``: its calls up to the word that it is live are written to the file that is named
#: first. Descriptors are numbers in what is recorded; whoever repeats it gives what the kernel returns the same ones.
_RECORD = """
import ctypes, marshal, os, sys
target = sys.argv.pop(1)
from pylsm.loader import bpf
from pylsm.loader.attr import Cmd
from pylsm.asm.maps import MapType
from pylsm.cli import attach
memory, pointers, calls, sizes = bytearray(), [], [], {}
real, told = bpf._syscall, attach.announce
def number(attr, at, size): return int.from_bytes(attr[at : at + size], "little")
def put(data):
    memory.extend(bytes(-len(memory) % 8))
    at = len(memory)
    memory.extend(data)
    return at
def pointed(command, attr):  # offset of a pointer -> the size of what it points to; include/uapi/linux/bpf.h
    if command == Cmd.MAP_UPDATE_ELEM:
        key, value = sizes[number(attr, 0, 4)]
        return {8: key, 16: value}
    if command == Cmd.PROG_LOAD:
        functions, lines = (number(attr, at, 4) * number(attr, at + 12, 4) for at in (76, 92))
        return {8: 8 * number(attr, 4, 4), 16: 4, 80: functions, 96: lines}
    if command == Cmd.RAW_TRACEPOINT_OPEN:
        return {0: 32}
    return {0: number(attr, 16, 4)} if command == Cmd.BTF_LOAD else {}
def recorded(syscall, command, address, size, *rest):
    attr = ctypes.string_at(address, size)
    keep = command in (Cmd.MAP_CREATE, Cmd.MAP_UPDATE_ELEM, Cmd.PROG_LOAD, Cmd.RAW_TRACEPOINT_OPEN, Cmd.BTF_LOAD)
    if command == Cmd.MAP_UPDATE_ELEM and not sizes[number(attr, 0, 4)]:
        keep = False  # a storage's key is a descriptor of a process of that start
    parts = []
    if keep:
        for at, length in pointed(command, attr).items():
            if number(attr, at, 8) and length:
                parts.append((at, put(ctypes.string_at(number(attr, at, 8), length))))
    result = real(syscall, command, address, size, *rest)
    if keep and result >= 0:
        begin = put(attr)
        pointers.extend((begin + at, to) for at, to in parts)
        calls.append((int(command), begin, size, result))
        if command == Cmd.MAP_CREATE:
            stored = number(attr, 0, 4) == MapType.TASK_STORAGE
            sizes[result] = () if stored else (number(attr, 4, 4), -(-number(attr, 8, 4) // 8) * 8)
    return result
def announce(*given):
    given[0]._object.finish()
    with open(target, "wb") as file:
        marshal.dump((bytes(memory), pointers, calls), file)
    os._exit(0)
bpf._syscall, attach.announce = recorded, announce
from pylsm.cli import main
main(sys.argv[1:])
"""

_REPLAY = '''
"""Makes the calls that were recorded; tools/benchlib/floor.py."""
import marshal
import os
from _ctypes import FUNCFLAG_CDECL, CFuncPtr, _SimpleCData, addressof, dlopen, dlsym


class Long(_SimpleCData):
    _type_ = "l"


class Byte(_SimpleCData):
    _type_ = "c"


class Function(CFuncPtr):
    _flags_ = FUNCFLAG_CDECL
    _restype_ = Long


syscall = Function(dlsym(dlopen(None, 0), "syscall"))
syscall.argtypes = (Long,) * 4
with open(__file__.rpartition("/")[0] + "/calls", "rb", buffering=0) as file:
    contents, pointers, calls = marshal.loads(file.read())
memory = bytearray(contents)
held = Byte.from_buffer(memory)
base = addressof(held)
for at, to in pointers:
    memory[at : at + 8] = (base + to).to_bytes(8, "little")
for command, at, size, fd in calls:
    result = syscall(NUMBER, command, base + at, size)
    if result < 0:
        raise OSError(f"call {command} is not to be made again")
    if fd and fd != result:
        os.dup2(result, fd)
        os.close(result)
os.write(1, b"attached\\n")
os.read(0, 1)
'''


def lay(site: Path, number: int) -> None:
    """Write the two packages, with bytecode that is not compared with its source.

    Args:
        site: the folder that Python finds them in.
        number: of bpf(2).
    """
    said = "import os\nos.write(1, b'attached\\n')\nos.read(0, 1)\n"
    for name, text in ((EMPTY, said), (REPLAY, _REPLAY.replace("NUMBER", str(number)))):
        folder = site / name
        folder.mkdir(exist_ok=True)
        for file, contents in (("__init__.py", ""), ("__main__.py", text)):
            (folder / file).write_text(contents)
            mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
            py_compile.compile(str(folder / file), doraise=True, invalidation_mode=mode)


def record(command: list[str], victim: int, site: Path) -> None:
    """Record a warm start for the package that repeats it.

    Args:
        command: ``python3 -m pylsm …``.
        victim: whom it traces.
        site: where pylsm and the packages lie.
    """
    time.sleep(2)
    arguments = [word.replace("PID", str(victim)) for word in command[3:]]
    subprocess.run(
        ["python3", "-c", _RECORD, str(site / REPLAY / "calls"), *arguments],
        env={**os.environ, "PYTHONPATH": str(site)},
        cwd="/",
        check=True,
    )
