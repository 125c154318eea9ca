"""Programs → `Template` → `Image`: BTF written, then every reference resolved against the kernel's types. Nothing is
created."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence

from pylsm.asm.instruction import Instruction, encode
from pylsm.asm.maps import MapSpec
from pylsm.asm.program import Program
from pylsm.asm.references import MapRef, MapValueRef
from pylsm.light import TYPE_CHECKING
from pylsm.loader.errors import SpecError
from pylsm.loader.image import Image, MapImage, ProgramImage
from pylsm.loader.progbtf import map_btf, program_btf
from pylsm.loader.relocate import OF_KERNEL, Known, resolve
from pylsm.loader.template import Template

if TYPE_CHECKING:
    from pylsm.btf import Btf

__all__ = ["map_image", "outline", "prepare", "prepare_program"]


def prepare(programs: Sequence[Program], *, maps: Iterable[MapSpec] = (), btf: Btf | None = None) -> Image:
    """What `pylsm.loader.Object` loads.

    Args:
        programs: the programs; their maps are taken from ``Program.maps``.
        maps: further maps, or other sizes for maps of the programs (by name).
        btf: types of the running kernel; by default its own, read only if a program needs any.

    Raises:
        SpecError: two programs (or two maps) of one name that differ, or an unknown section.
        ResolveError: a type, field or function that this kernel does not have.
    """
    specs = _specs(programs, maps)
    names = [program.name for program in programs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise SpecError(f"two programs are called {twice!r}")
    known: Known = {}
    return Image(
        tuple(map_image(spec) for spec in specs.values()),
        tuple(prepare_program(program, specs, btf=btf, known=known) for program in programs),
    )


def prepare_program(
    program: Program,
    maps: Iterable[str],
    *,
    btf: Btf | None = None,
    known: Known | None = None,
    source_lines: bool = True,
) -> ProgramImage:
    """One program; see `pylsm.loader.LoadedProgram.load` for the arguments.

    Raises:
        SpecError: an unknown section.
        ResolveError: a map, type, field or function that is not there.
    """

    def kernel() -> Btf:
        if btf is not None:
            return btf
        from pylsm.btf import Btf as Reader

        return Reader.kernel()

    return outline(program, maps, source_lines=source_lines).fill(kernel, known)


def outline(program: Program, maps: Iterable[str], *, source_lines: bool = True) -> Template:
    """One program as far as no kernel is needed for it; see `pylsm.loader.LoadedProgram.load` for the arguments.

    Raises:
        ResolveError: a map that is not there.
    """
    descriptors: Mapping[str, int] = dict.fromkeys(maps, 0)
    instructions = resolve(program, descriptors, None)
    types, refusal = program_btf(program) if source_lines else (None, "")
    references: list[tuple[int, str]] = []
    asked: list[tuple[int, Instruction]] = []
    slot = 0
    for instruction in program.instructions:
        reference = instruction.reference
        if isinstance(reference, (MapRef, MapValueRef)):
            references.append((slot, reference.name))
        elif isinstance(reference, OF_KERNEL):
            asked.append((slot, instruction))
        slot += instruction.slots
    image = ProgramImage(
        program.name,
        program.section,
        program.license,
        0,
        encode(instructions, sys.byteorder),
        tuple(references),
        types,
        refusal,
    )
    return Template(image, tuple(spec.name for spec in program.maps), tuple(asked))


def map_image(spec: MapSpec) -> MapImage:
    """One map, with the types of its key and value."""
    return MapImage(spec.name, spec.type, spec.key_size, spec.value_size, spec.max_entries, spec.flags, map_btf(spec))


def _specs(programs: Sequence[Program], maps: Iterable[MapSpec]) -> dict[str, MapSpec]:
    """Every map by name; two programs that name the same map have to mean the same."""
    given = {spec.name: spec for spec in maps}
    specs: dict[str, MapSpec] = {}
    for program in programs:
        for spec in program.maps:
            other = specs.setdefault(spec.name, spec)
            if _key(other) != _key(spec):
                raise SpecError(f"map {spec.name!r} is {other} in one program and {spec} in {program.name!r}")
    for name, spec in given.items():
        used = specs.get(name)
        if used is not None and _key(used)[:3] != _key(spec)[:3]:
            raise SpecError(f"map {name!r} is {spec}, but the programs use {used}")
    return {**specs, **given}


def _key(spec: MapSpec) -> tuple[int, int, int, int, int]:
    return (spec.type, spec.key_size, spec.value_size, spec.max_entries, spec.flags)
