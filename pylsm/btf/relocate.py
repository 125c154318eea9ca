"""Questions that a program compiled for any kernel asks about the running one (CO-RE).

A program is written against names: struct, member, enumerator. These functions turn the names into numbers of
one kernel, allow for names that changed between versions, and say in one line what that kernel does not have.
The kinds of question are those of `enum bpf_core_relo_kind` in include/uapi/linux/bpf.h.
"""

from __future__ import annotations

from pylsm.btf.errors import BtfError, BtfNotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Union

    from pylsm.btf.reader import Btf
    from pylsm.btf.types import Member

    Alternative = Union[str, tuple[str, str]]

__all__ = ["enum_value", "exists", "resolve_field", "type_exists", "type_size"]


def resolve_field(kernel: Btf, struct: str, path: str, alternatives: Sequence[Alternative] = ()) -> Member:
    """Where a field is in this kernel.

    Args:
        kernel: the BTF of the kernel the program will run on.
        struct: the struct: "task_struct", "struct task_struct".
        path: members joined by dots, as for `Btf.member`.
        alternatives: what to try, in order, when the kernel does not have that: other paths in the same
            struct, or (struct, path) where the struct itself was renamed.

    Returns:
        The first that exists; `.offset` in bytes, `.bit_offset` and `.bit_size` in bits.

    Raises:
        BtfNotFound: the kernel has none of them; names the type, the field and the kernel, and what comes
            close to the first choice.
        BtfError: a path crosses a pointer, or the BTF is damaged.
    """
    first: BtfNotFound
    try:
        return kernel.member(struct, path)
    except BtfNotFound as error:
        first = error
    tried = []
    for alternative in alternatives:
        other, way = (struct, alternative) if isinstance(alternative, str) else alternative
        try:
            return kernel.member(other, way)
        except BtfNotFound:
            tried.append(f"{other}.{way}")
    if not tried:
        raise first
    raise BtfNotFound(
        first.kind,
        f"{struct}.{path}",
        lambda: first.nearest,
        what="field",
        where=f"{first.where or 'any type'} (nor {', '.join(tried)})",
        source=kernel.name,
    ) from first


def exists(kernel: Btf, struct: str, path: str) -> bool:
    """Whether this kernel has a field; False also when it has no such struct.

    Raises:
        BtfError: the path crosses a pointer, or the BTF is damaged.
    """
    try:
        kernel.member(struct, path)
    except BtfNotFound:
        return False
    return True


def type_exists(kernel: Btf, name: str) -> bool:
    """Whether this kernel has a type.

    Args:
        kernel: its BTF.
        name: "struct bpf_ringbuf", "enum bpf_attach_type", or a bare name of any kind ("bpf_lsm_file_open").
    """
    try:
        kernel.find_c(name)
    except BtfNotFound:
        return False
    return True


def type_size(kernel: Btf, name: str) -> int:
    """The size in bytes of a type of this kernel, named as for `type_exists`.

    Raises:
        BtfNotFound: no such type.
        BtfError: it has no size (a function, a forward declaration).
    """
    return kernel.size_of(kernel.find_c(name))


def enum_value(kernel: Btf, enum: str, value: str, alternatives: Sequence[str] = ()) -> int:
    """The number that a named constant has in this kernel.

    Args:
        kernel: its BTF.
        enum: the enum: "pid_type".
        value: the constant: "PIDTYPE_TGID".
        alternatives: other names of the constant to try, in order.

    Raises:
        BtfNotFound: no such enum, or none of the constants in it.
    """
    first: BtfError
    try:
        return kernel.enumerator(enum, value)
    except BtfNotFound as error:
        first = error
    for other in alternatives:
        try:
            return kernel.enumerator(enum, other)
        except BtfNotFound:
            continue
    raise first
