"""What is missing on this machine before OpenVINO can use an Intel GPU or NPU, and what mends it.

Reads the file system only: nothing is loaded, run or changed, and no administrator is needed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

INTEL = "0x8086"
# PCI device ids of the NPUs: Meteor Lake, Arrow Lake, Lunar Lake, Panther Lake, Wildcat Lake
# (https://github.com/intel/linux-npu-driver).
NPU_IDS = frozenset({"0x7d1d", "0xad1d", "0x643e", "0xb03e", "0xfd3e"})
# PCI base class of display controllers.
DISPLAY = "0x03"

GPU_WINDOWS = "https://www.intel.com/content/www/us/en/download/785597/intel-arc-graphics-windows.html"
NPU_WINDOWS = "https://www.intel.com/content/www/us/en/download/794734/intel-npu-driver-windows.html"
GPU_LINUX = "https://github.com/intel/compute-runtime/releases"
NPU_LINUX = "https://github.com/intel/linux-npu-driver/releases"
LEVEL_ZERO = "https://github.com/oneapi-src/level-zero/releases"
_JOIN_RENDER = "sudo usermod -aG render $USER, then log in again"

# Where distributions keep shared libraries, relative to the root.
_LIBRARY_FOLDERS = (
    "usr/lib/x86_64-linux-gnu",
    "lib/x86_64-linux-gnu",
    "usr/lib64",
    "lib64",
    "usr/lib",
    "usr/local/lib",
    "run/opengl-driver/lib",  # NixOS
)
_ICD_FOLDERS = ("etc/OpenCL/vendors", "run/opengl-driver/etc/OpenCL/vendors")

DeviceKind = Literal["GPU", "NPU"]


@dataclass(frozen=True)
class Finding:
    """One thing that keeps ``device`` from working, and the command or page that mends it."""

    device: DeviceKind
    problem: str
    mend: str

    def __str__(self) -> str:
        return f"{self.problem}: {self.mend}"


def driver_findings(
    root: Path = Path("/"),
    platform: str = sys.platform,
    environ: Mapping[str, str] = os.environ,
    usable: Callable[[Path], bool] = lambda node: os.access(node, os.R_OK | os.W_OK),
) -> tuple[Finding, ...]:
    """Everything found missing for the GPUs and the NPU of this machine; empty if nothing is.

    On Linux a device that the machine does not have gives no finding. Elsewhere the hardware cannot
    be told without administrator rights, so on Windows there is one finding a kind, to be shown
    only where the runtime does not see such a device.

    Args:
        root: where ``/sys``, ``/dev``, ``/etc`` and ``/usr`` are.
        platform: as `sys.platform`.
        environ: as `os.environ`; LD_LIBRARY_PATH, CONDA_PREFIX and OCL_ICD_VENDORS are heeded.
        usable: whether this user may read and write a device node.
    """
    if platform == "win32":
        return _windows()
    if not platform.startswith("linux"):
        return ()
    machine = _Linux(root, environ, usable)
    return (*machine.gpu(), *machine.npu())


def _windows() -> tuple[Finding, ...]:
    return (
        Finding("GPU", "no driver for an Intel GPU", f"install Intel's graphics driver from {GPU_WINDOWS}"),
        Finding("NPU", "no driver for an Intel NPU", f"install Intel's NPU driver from {NPU_WINDOWS}"),
    )


@dataclass(frozen=True)
class _Linux:
    root: Path
    environ: Mapping[str, str]
    usable: Callable[[Path], bool]

    def gpu(self) -> Iterator[Finding]:
        if self._is_wsl():
            if not (self.root / "dev/dxg").exists():
                yield Finding(
                    "GPU",
                    "WSL2 has no /dev/dxg",
                    f"run `wsl --update` in Windows and install its graphics driver from {GPU_WINDOWS}",
                )
                return
        else:
            cards = [d for d in self._intel_devices() if _read(d / "class").startswith(DISPLAY)]
            if not cards:
                return
            yield from self._nodes(
                "GPU", cards, "drm", "renderD", "dev/dri", "sudo modprobe xe || sudo modprobe i915"
            )
        # OpenVINO's GPU plugin is linked to the OpenCL loader and works through Intel's OpenCL driver.
        if not self._has_library("libOpenCL.so.1") or not self._has_opencl_driver():
            yield Finding("GPU", "Intel's OpenCL driver is not installed", self._install_opencl())

    def npu(self) -> Iterator[Finding]:
        if self._is_wsl():
            yield Finding("NPU", "WSL2 gives no access to an NPU", "use Python on Windows itself")
            return
        units = [d for d in self._intel_devices() if _read(d / "device") in NPU_IDS]
        if not units:
            return
        yield from self._nodes("NPU", units, "accel", "accel", "dev/accel", "sudo modprobe intel_vpu")
        # Before driver 1.16 the library was called libze_intel_vpu.
        if not any(self._has_library(f"libze_intel_{name}.so.1") for name in ("npu", "vpu")):
            yield Finding("NPU", "Intel's NPU driver is not installed", f"install it from {NPU_LINUX}")
        if not self._has_library("libze_loader.so.1"):
            yield Finding("NPU", "the Level Zero loader is not installed", self._install_level_zero())

    def _nodes(
        self, kind: DeviceKind, devices: list[Path], subsystem: str, prefix: str, folder: str, module: str
    ) -> Iterator[Finding]:
        """The kernel's side: a driver is bound, its node is in /dev, and this user may open it."""
        names = sorted({n.name for d in devices for n in (d / subsystem).glob(f"{prefix}*")})
        if not names:
            yield Finding(kind, f"no kernel driver is bound to the {kind}", f"{module}, or a newer kernel")
            return
        nodes = [self.root / folder / name for name in names]
        there = [node for node in nodes if node.exists()]
        if not there:
            yield Finding(
                kind,
                f"/{folder}/{names[0]} is missing",
                f"in a container, start it with --device /{folder}; else {module}",
            )
        elif not any(self.usable(node) for node in there):
            yield Finding(kind, f"no permission for /{folder}/{there[0].name}", _JOIN_RENDER)

    def _is_wsl(self) -> bool:
        return "microsoft" in _read(self.root / "proc/sys/kernel/osrelease")

    def _intel_devices(self) -> list[Path]:
        try:
            devices = sorted((self.root / "sys/bus/pci/devices").iterdir())
        except OSError:
            return []
        return [d for d in devices if _read(d / "vendor") == INTEL]

    def _has_library(self, name: str) -> bool:
        folders = [self.root / folder for folder in _LIBRARY_FOLDERS]
        folders += [Path(p) for p in self.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if p]
        if "CONDA_PREFIX" in self.environ:
            folders.append(Path(self.environ["CONDA_PREFIX"]) / "lib")
        return any((folder / name).exists() for folder in folders)

    def _has_opencl_driver(self) -> bool:
        """An .icd file that names libigdrcl; Intel's OpenCL for the CPU has one too, which does not count."""
        folders = [self.root / folder for folder in _ICD_FOLDERS]
        if "OCL_ICD_VENDORS" in self.environ:
            folders.append(Path(self.environ["OCL_ICD_VENDORS"]))
        if "CONDA_PREFIX" in self.environ:
            folders.append(Path(self.environ["CONDA_PREFIX"]) / "etc/OpenCL/vendors")
        return any("igdrcl" in _read(icd) for folder in folders for icd in folder.glob("*.icd"))

    def _install_opencl(self) -> str:
        return {
            "debian": "sudo apt install intel-opencl-icd ocl-icd-libopencl1",
            "fedora": "sudo dnf install intel-compute-runtime ocl-icd",
            "arch": "sudo pacman -S intel-compute-runtime ocl-icd",
        }.get(self._distribution(), "install it with the OpenCL loader") + f" (newest: {GPU_LINUX})"

    def _install_level_zero(self) -> str:
        return {
            "debian": "sudo apt install libze1",
            "fedora": "sudo dnf install oneapi-level-zero",
            "arch": "sudo pacman -S level-zero-loader",
        }.get(self._distribution(), f"install it from {LEVEL_ZERO}")

    def _distribution(self) -> str:
        """The family of the distribution: "debian" (Ubuntu too), "fedora", "arch", or ""."""
        words: list[str] = []
        for line in _read(self.root / "etc/os-release").splitlines():
            key, _, value = line.partition("=")
            if key in ("id", "id_like"):
                words += value.strip("\"'").split()
        return next((name for name in ("debian", "fedora", "arch") if name in words), "")


def _read(file: Path) -> str:
    """The text of a small file in lower case, "" if it cannot be read."""
    try:
        with open(file, encoding="utf-8", errors="replace") as stream:
            return stream.read(1 << 16).strip().lower()
    except OSError:
        return ""
