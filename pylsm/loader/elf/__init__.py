"""BPF ELF objects: what clang writes for libbpf, read without libbpf, and written for it."""

from pylsm.loader.elf.errors import ElfError
from pylsm.loader.elf.reader import ObjectFile

__all__ = ["ElfError", "ObjectFile"]
