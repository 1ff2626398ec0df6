"""Accelerators are what has a driver and a device file that a process can open; machines are folders of such files."""

from __future__ import annotations

import os
import time

import pytest
from target.recorded import machine

from lepton_compile.target import Accelerator, resolve_target
from lepton_compile.target import accelerators as module
from lepton_compile.target.accelerators import nvidia_memory, sense_accelerators
from lepton_compile.target.host import sense

# As NVIDIA's driver writes it, tabs and all.
INFORMATION = """Model: \t\t {model}
IRQ:   \t\t 95
GPU UUID: \t GPU-5d1e8ea9-27cb-4a3c-8f1f-000000000000
Video BIOS: \t 96.00.74.00.11
Bus Type: \t PCIe
DMA Size: \t 52 bits
DMA Mask: \t 0xfffffffffffff
Bus Location: \t {address}
Device Minor: \t {minor}
GPU Excluded:\t No
"""
AMD = """DRIVER=amdgpu
PCI_CLASS=30000
PCI_ID=1002:73BF
PCI_SUBSYS_ID=1DA2:E438
PCI_SLOT_NAME=0000:03:00.0
MODALIAS=pci:v00001002d000073BFsv00001DA2sd0000E438bc03sc00i00
"""
INTEL = "DRIVER=i915\nPCI_CLASS=30000\nPCI_ID=8086:9A49\nPCI_SLOT_NAME=0000:00:02.0\n"
NVIDIA = "DRIVER=nvidia\nPCI_CLASS=30200\nPCI_ID=10DE:2335\nPCI_SLOT_NAME=0000:81:00.0\n"
V3D = """DRIVER=v3d
OF_NAME=v3d
OF_FULLNAME=/v3dbus/v3d@7ec04000
OF_COMPATIBLE_0=brcm,2711-v3d
OF_COMPATIBLE_N=1
MODALIAS=of:Nv3dT(null)Cbrcm,2711-v3d
"""
ROCKET = "DRIVER=rocket\nOF_NAME=npu\nOF_COMPATIBLE_0=rockchip,rk3588-rknn-core\nOF_COMPATIBLE_N=1\n"
VIRTIO = "DRIVER=virtio_gpu\nMODALIAS=virtio:d00000010v00001AF4\n"


def render_node(number: int, uevent: str, **more: str) -> dict[str, str]:
    device = f"sys/class/drm/renderD{number}/device"
    attributes = {f"{device}/{name}": text for name, text in more.items()}
    return {f"{device}/uevent": uevent, f"dev/dri/renderD{number}": "", **attributes}


def nvidia(address: str, minor: int, model: str = "NVIDIA H200") -> dict[str, str]:
    text = INFORMATION.format(address=address, minor=minor, model=model)
    return {f"proc/driver/nvidia/gpus/{address}/information": text, f"dev/nvidia{minor}": ""}


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({}, ()),
        (render_node(128, AMD, mem_info_vram_total="17163091968\n"), (Accelerator("AMD 73BF (amdgpu)", 17163091968),)),
        (render_node(128, AMD, product_name="Instinct MI210\n"), (Accelerator("Instinct MI210"),)),
        (render_node(128, INTEL), (Accelerator("Intel 9A49 (i915)"),)),
        (render_node(128, V3D), (Accelerator("brcm,2711-v3d"),)),
        (render_node(128, VIRTIO), ()),
        (
            {"sys/class/accel/accel0/device/uevent": ROCKET, "dev/accel/accel0": ""},
            (Accelerator("rockchip,rk3588-rknn-core"),),
        ),
        # The display's node besides, which makes nothing twice.
        (
            {**render_node(128, INTEL), "sys/class/drm/card0/device/uevent": INTEL, "dev/dri/card0": ""},
            (Accelerator("Intel 9A49 (i915)"),),
        ),
        # NVIDIA's render node is the GPU that is known already.
        (
            {**nvidia("0000:81:00.0", 0), **render_node(129, NVIDIA), **render_node(128, INTEL)},
            (Accelerator("NVIDIA H200", 150754820096), Accelerator("Intel 9A49 (i915)")),
        ),
        (
            {**nvidia("0000:c1:00.0", 1, "NVIDIA A2"), **nvidia("0000:81:00.0", 0)},
            (Accelerator("NVIDIA H200", 150754820096), Accelerator("NVIDIA A2")),
        ),
    ],
)
def test_accelerators_are_what_has_a_driver(tmp_path, files, found):
    assert sense_accelerators(machine(tmp_path, files), {"0000:81:00.0": 150754820096}) == found


def test_what_a_container_was_not_given_is_not_there(tmp_path):
    files = {**nvidia("0000:81:00.0", 0), **render_node(128, AMD)}
    given = {name: text for name, text in files.items() if not name.startswith("dev/")}
    assert sense_accelerators(machine(tmp_path, given), {}) == ()


def test_a_broken_driver_is_no_obstacle(tmp_path):
    files = {
        **render_node(128, "\0\nDRIVER\n=\nPCI_ID=\n"),
        **render_node(129, AMD, mem_info_vram_total="-1", product_name="\x01\x02"),
        "proc/driver/nvidia/gpus/0000:81:00.0/information": "",
        "dev/nvidiaNone": "",
        "proc/driver/nvidia/gpus/0000:82:00.0/information/is_a_folder": "",
    }
    target = sense(machine(tmp_path, files), "x86_64", frozenset({0}))
    assert target.resources.accelerators == (Accelerator("AMD 73BF (amdgpu)"),)
    (tmp_path / "my.toml").write_text(target.to_toml())
    assert resolve_target(tmp_path / "my.toml") == target


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """Make a program that is called nvidia-smi."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    def write(script: str) -> None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)

    return write


def test_nvidias_tool_says_how_much_memory_there_is(tool):
    tool('echo "$@" >&2; echo "00000000:81:00.0, 143771"; echo "0000000A:C1:00.0, 15356"; echo "0000:01:00.0, [N/A]"')
    assert nvidia_memory() == {"0000:81:00.0": 143771 * 2**20, "000a:c1:00.0": 15356 * 2**20}


@pytest.mark.parametrize(
    "script", ["echo 'NVIDIA-SMI has failed'; exit 9", "kill -SEGV $$", "echo; echo '\\377'", "sleep 60"]
)
def test_a_tool_that_fails_says_nothing(tool, monkeypatch, script):
    monkeypatch.setattr(module, "_SECONDS", 0.5)
    tool(script)
    start = time.monotonic()
    assert nvidia_memory() == {}
    assert time.monotonic() - start < 30


def test_no_tool_says_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert nvidia_memory() == {}
