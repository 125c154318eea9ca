"""What is wrong with an object file, and where."""

from __future__ import annotations

from pylsm.errors import PylsmError

__all__ = ["ElfError"]


class ElfError(PylsmError):
    """An object file that is damaged, or that asks for what pylsm does not do.

    Attributes:
        section: the section at fault, "ELF header", "section header N" or "".
        offset: bytes from the start of that section, or of the file for headers; None where it is the whole.
    """

    def __init__(
        self, message: str, *, file: str = "", section: str = "", offset: int | None = None, hint: str = ""
    ) -> None:
        place = section if offset is None else f"{section}+{offset:#x}"
        super().__init__(": ".join(part for part in (file, place, message) if part), hint=hint)
        self.file = file
        self.section = section
        self.offset = offset
