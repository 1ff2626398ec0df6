"""The processors beside the cores that a process can use: GPUs, and those for neural networks.

Linux shows them as render nodes (Documentation/gpu/drm-uapi.rst) and compute accelerators (Documentation/accel), which
leaves out adapters that only display. NVIDIA's own driver has a folder in /proc for each GPU (the driver's README,
"Using the /proc File System Interface"), and its tool alone tells their memory. One whose device file is not there, as
in a container that was not given it, can not be used.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from lepton_compile.target.system_files import one_line, read_number, read_text
from lepton_compile.target.target import Accelerator

_NODES = (("sys/class/drm", "renderD*", "dev/dri"), ("sys/class/accel", "accel*", "dev/accel"))
"""Folder of a class of devices, the names in it, and the folder of their device files."""

_VENDORS = {"1002": "AMD", "10DE": "NVIDIA", "8086": "Intel"}  # by the PCI SIG's numbers

# It may have to wake the GPUs first; eight of them take ten seconds.
_SECONDS = 30


def sense_accelerators(root: Path, memory: Mapping[str, int]) -> tuple[Accelerator, ...]:
    """The accelerators of the machine whose /proc, /sys and /dev are under a folder.

    Args:
        root: The root of the file system.
        memory: Bytes of their memory, by PCI address, as far as it is known otherwise.
    """
    found: dict[str, Accelerator] = {}
    for address, accelerator in (*_nvidia(root), *_nodes(root)):
        found.setdefault(address, accelerator)  # NVIDIA's driver makes render nodes as well
    return tuple(
        Accelerator(accelerator.name, accelerator.memory_bytes or memory.get(address))
        for address, accelerator in found.items()
    )


def nvidia_memory() -> dict[str, int]:
    """Bytes of memory of NVIDIA's GPUs, by PCI address, as nvidia-smi says; empty where it says nothing.

    A process of its own, because with a broken driver it may crash or never end.
    """
    command = ["nvidia-smi", "--query-gpu=pci.bus_id,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_SECONDS, stdin=subprocess.DEVNULL, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    # The PCI domain has eight digits there, and four in Linux. Memory is in MiB.
    lines = re.findall(rb"^([0-9A-Fa-f]+):([0-9A-Fa-f]+:[0-9A-Fa-f]+\.\d), (\d+)$", done.stdout, re.MULTILINE)
    return {f"{int(domain, 16):04x}:{rest.decode().lower()}": int(size) << 20 for domain, rest, size in lines}


def _nvidia(root: Path) -> Iterator[tuple[str, Accelerator]]:
    for folder in sorted((root / "proc/driver/nvidia/gpus").glob("*")):
        lines = (line.partition(":") for line in read_text(folder / "information").splitlines())
        facts = {key.strip(): value.strip() for key, _, value in lines}
        if "Device Minor" in facts and (root / f"dev/nvidia{facts['Device Minor']}").exists():
            yield folder.name.lower(), Accelerator(one_line(facts.get("Model", "")) or "NVIDIA")


def _nodes(root: Path) -> Iterator[tuple[str, Accelerator]]:
    for folder, names, files in _NODES:
        for node in sorted((root / folder).glob(names)):
            device = node / "device"
            facts = dict(line.split("=", 1) for line in read_text(device / "uevent").splitlines() if "=" in line)
            name = one_line(read_text(device / "product_name")) or one_line(_name(facts))
            if name and (root / files / node.name).exists():
                address = facts.get("PCI_SLOT_NAME", node.name)
                # Of the drivers in Linux, AMD's alone tells a card's memory: Documentation/gpu/amdgpu/driver-misc.rst.
                yield address, Accelerator(name, read_number(device / "mem_info_vram_total"))


def _name(facts: Mapping[str, str]) -> str:
    """A PCI device's vendor and number, or what the device tree calls it; empty for what is software alone."""
    vendor, _, number = facts.get("PCI_ID", "").partition(":")
    if number:
        return f"{_VENDORS.get(vendor, vendor)} {number} ({facts.get('DRIVER', 'no driver')})"
    return facts.get("OF_COMPATIBLE_0", "")
