"""What is in an object file or library: its symbols, what it needs, and its instructions; no binutils are called."""

from __future__ import annotations

from pathlib import Path

import capstone
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import Symbol, SymbolTableSection

SYSTEM = {
    *("libc.so.6", "libm.so.6", "libpthread.so.0"),
    *("ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1", "ld-linux-riscv64-lp64d.so.1"),
}
"""The C library, its mathematics and threads, and the loader."""


def needed(path: Path) -> set[str]:
    """The libraries that a library names as needed (DT_NEEDED)."""
    with path.open("rb") as stream:
        sections = [section for section in ELFFile(stream).iter_sections() if isinstance(section, DynamicSection)]
        return {tag.needed for section in sections for tag in section.iter_tags("DT_NEEDED")}


def exported(path: Path) -> list[str]:
    """The dynamic symbols that a library defines, sorted."""
    return sorted(symbol.name for symbol in _symbols(path, ".dynsym") if symbol["st_shndx"] != "SHN_UNDEF")


def undefined(path: Path) -> set[str]:
    """The symbols that an object leaves to the linker."""
    return {symbol.name for symbol in _symbols(path, ".symtab") if symbol["st_shndx"] == "SHN_UNDEF" and symbol.name}


def functions(path: Path) -> list[str]:
    """The functions that an object shows to others, sorted."""
    return sorted(
        symbol.name
        for symbol in _symbols(path, ".symtab")
        if symbol["st_info"]["type"] == "STT_FUNC" and symbol["st_info"]["bind"] == "STB_GLOBAL"
    )


def instructions(path: Path) -> list[str]:
    """The instructions in an x86-64 object's .text in Intel's notation: "movups xmm0, xmmword ptr [rdi]"."""
    with path.open("rb") as stream:
        code = ELFFile(stream).get_section_by_name(".text").data()
    disassembler = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    decoded = list(disassembler.disasm(code, 0))
    assert sum(instruction.size for instruction in decoded) == len(code), "not all of it could be disassembled"
    return [f"{instruction.mnemonic} {instruction.op_str}" for instruction in decoded]


def section_flags(path: Path, name: str) -> int:
    """The flags (sh_flags) of a section."""
    with path.open("rb") as stream:
        return int(ELFFile(stream).get_section_by_name(name)["sh_flags"])


def segments(path: Path) -> list[tuple[int, int]]:
    """Position in the file and address of every part that is loaded."""
    with path.open("rb") as stream:
        return [(s["p_offset"], s["p_vaddr"]) for s in ELFFile(stream).iter_segments() if s["p_type"] == "PT_LOAD"]


def _symbols(path: Path, table: str) -> list[Symbol]:
    with path.open("rb") as stream:
        section = ELFFile(stream).get_section_by_name(table)
        return list(section.iter_symbols()) if isinstance(section, SymbolTableSection) else []


def glibc_versions(library: Path) -> set[tuple[int, ...]]:
    """The versions of the C library that a shared library's symbols are from."""
    with library.open("rb") as stream:
        section = ELFFile(stream).get_section_by_name(".gnu.version_r")
        names = [auxiliary.name for _, entries in section.iter_versions() for auxiliary in entries]
    return {tuple(map(int, name.removeprefix("GLIBC_").split("."))) for name in names if name.startswith("GLIBC_")}
