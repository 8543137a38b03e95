"""What is missing for a GPU or an NPU, on made-up /sys, /dev, /etc and /usr trees."""

from __future__ import annotations

from pathlib import Path

import pytest

from baichuan_intel.hardware.drivers import Finding, driver_findings


class Machine:
    """A root folder to which parts of a machine are added."""

    def __init__(self, root: Path, distribution: str = "ID=ubuntu\nID_LIKE=debian\n") -> None:
        self.root = root
        self.file("etc/os-release", distribution)
        self.file("proc/sys/kernel/osrelease", "6.11.0-21-generic\n")
        self.forbidden: set[str] = set()

    def file(self, path: str, text: str = "") -> Machine:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return self

    def pci(self, address: str, vendor: str, device: str, class_: str) -> Machine:
        for name, value in (("vendor", vendor), ("device", device), ("class", class_)):
            self.file(f"sys/bus/pci/devices/{address}/{name}", value + "\n")
        return self

    def gpu(self, *, bound: bool = True, node: bool = True) -> Machine:
        self.pci("0000:00:02.0", "0x8086", "0x7d55", "0x030000")
        if bound:
            self.file("sys/bus/pci/devices/0000:00:02.0/drm/renderD128/dev", "226:128")
        return self.file("dev/dri/renderD128") if node else self

    def npu(self, *, device: str = "0x643e", bound: bool = True, node: bool = True) -> Machine:
        self.pci("0000:00:0b.0", "0x8086", device, "0x120000")
        if bound:
            self.file("sys/bus/pci/devices/0000:00:0b.0/accel/accel0/dev", "261:0")
        return self.file("dev/accel/accel0") if node else self

    def opencl(self) -> Machine:
        self.file("usr/lib/x86_64-linux-gnu/libOpenCL.so.1")
        return self.file(
            "etc/OpenCL/vendors/intel.icd", "/usr/lib/x86_64-linux-gnu/intel-opencl/libigdrcl.so\n"
        )

    def level_zero(self) -> Machine:
        self.file("usr/lib/x86_64-linux-gnu/libze_loader.so.1")
        return self.file("usr/lib/x86_64-linux-gnu/libze_intel_npu.so.1")

    def findings(self, environ: dict[str, str] | None = None) -> tuple[Finding, ...]:
        return driver_findings(
            self.root,
            "linux",
            environ or {},
            lambda node: node.relative_to(self.root).as_posix() not in self.forbidden,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_nothing_is_missing_on_a_whole_machine(machine: Machine) -> None:
    assert machine.gpu().npu().opencl().level_zero().findings() == ()


def test_a_machine_without_intel_devices_gives_no_finding(machine: Machine) -> None:
    machine.pci("0000:01:00.0", "0x10de", "0x2684", "0x030000")  # another vendor's GPU
    machine.pci("0000:00:1f.3", "0x8086", "0x7728", "0x040100")  # Intel's, but audio
    assert machine.findings() == ()


def test_an_empty_root_gives_no_finding(tmp_path: Path) -> None:
    assert driver_findings(tmp_path / "nothing", "linux", {}) == ()


def test_gpu_without_opencl_driver(machine: Machine) -> None:
    (finding,) = machine.gpu().findings()
    assert finding.device == "GPU"
    assert "OpenCL driver is not installed" in finding.problem
    assert finding.mend.startswith("sudo apt install intel-opencl-icd ocl-icd-libopencl1")


def test_the_opencl_driver_of_the_cpu_does_not_count(machine: Machine) -> None:
    machine.gpu().file("usr/lib64/libOpenCL.so.1")
    machine.file("etc/OpenCL/vendors/intel64.icd", "/opt/intel/oneapi/lib/libintelocl.so\n")
    assert ["OpenCL" in f.problem for f in machine.findings()] == [True]


def test_the_driver_without_the_loader_does_not_count(machine: Machine) -> None:
    machine.gpu().opencl()
    (machine.root / "usr/lib/x86_64-linux-gnu/libOpenCL.so.1").unlink()
    assert ["OpenCL" in f.problem for f in machine.findings()] == [True]


def test_opencl_in_a_conda_environment_counts(machine: Machine, tmp_path: Path) -> None:
    conda = machine.gpu().root / "opt/conda"
    machine.file("opt/conda/lib/libOpenCL.so.1")
    machine.file("opt/conda/etc/OpenCL/vendors/intel.icd", "libigdrcl.so")
    assert machine.findings({"CONDA_PREFIX": str(conda)}) == ()
    assert (
        machine.findings(
            {"LD_LIBRARY_PATH": f":{conda}/lib", "OCL_ICD_VENDORS": f"{conda}/etc/OpenCL/vendors"}
        )
        == ()
    )


@pytest.mark.parametrize(
    ("release", "command"),
    [
        ("ID=fedora\n", "sudo dnf install intel-compute-runtime"),
        ("ID=arch\n", "sudo pacman -S intel-compute-runtime"),
        ('ID="linuxmint"\nID_LIKE="ubuntu debian"\n', "sudo apt install intel-opencl-icd"),
        ("ID=gentoo\n", "https://github.com/intel/compute-runtime"),
        ("", "https://github.com/intel/compute-runtime"),
    ],
)
def test_the_command_is_the_distribution_s(tmp_path: Path, release: str, command: str) -> None:
    (finding,) = Machine(tmp_path, release).gpu().findings()
    assert command in finding.mend


def test_gpu_without_kernel_driver(machine: Machine) -> None:
    (finding,) = machine.gpu(bound=False, node=False).opencl().findings()
    assert "no kernel driver" in finding.problem
    assert "modprobe xe" in finding.mend


def test_another_gpu_s_node_does_not_stand_for_ours(machine: Machine) -> None:
    machine.gpu(bound=False, node=True).opencl()
    assert ["no kernel driver" in f.problem for f in machine.findings()] == [True]


def test_gpu_without_node_as_in_a_container(machine: Machine) -> None:
    (finding,) = machine.gpu(node=False).opencl().findings()
    assert finding.problem == "/dev/dri/renderD128 is missing"
    assert "--device /dev/dri" in finding.mend


def test_gpu_without_permission(machine: Machine) -> None:
    machine.gpu().opencl().forbidden = {"dev/dri/renderD128"}
    (finding,) = machine.findings()
    assert finding == Finding(
        "GPU",
        "no permission for /dev/dri/renderD128",
        "sudo usermod -aG render $USER, then log in again",
    )


def test_a_3d_controller_is_a_gpu_too(machine: Machine) -> None:
    machine.pci("0000:03:00.0", "0x8086", "0x56c0", "0x038000")
    assert {f.device for f in machine.findings()} == {"GPU"}


@pytest.mark.parametrize("device", ["0x7d1d", "0xad1d", "0x643e", "0xb03e", "0xfd3e", "0x7D1D"])
def test_every_npu_is_known_by_its_id(machine: Machine, device: str) -> None:
    (first, *_) = machine.npu(device=device, bound=False, node=False).level_zero().findings()
    assert first.device == "NPU"
    assert "modprobe intel_vpu" in first.mend


def test_npu_without_user_space(machine: Machine) -> None:
    driver, loader = machine.npu().findings()
    assert "https://github.com/intel/linux-npu-driver" in driver.mend
    assert loader.mend == "sudo apt install libze1"


def test_the_npu_driver_s_old_name_counts(machine: Machine) -> None:
    machine.npu().level_zero()
    lib = machine.root / "usr/lib/x86_64-linux-gnu"
    (lib / "libze_intel_npu.so.1").rename(lib / "libze_intel_vpu.so.1")
    assert machine.findings() == ()


def test_npu_without_permission(machine: Machine) -> None:
    machine.npu().level_zero().forbidden = {"dev/accel/accel0"}
    (finding,) = machine.findings()
    assert finding.problem == "no permission for /dev/accel/accel0"
    assert "usermod -aG render" in finding.mend


def test_wsl_has_no_npu_and_its_gpu_is_dxg(machine: Machine) -> None:
    machine.file("proc/sys/kernel/osrelease", "5.15.167.4-microsoft-standard-WSL2\n")
    gpu, npu = machine.findings()
    assert gpu.problem == "WSL2 has no /dev/dxg"
    assert "wsl --update" in gpu.mend
    assert npu.device == "NPU"
    assert "Windows" in npu.mend
    machine.file("dev/dxg")
    assert [f.device for f in machine.findings()] == ["GPU", "NPU"]
    assert [f.device for f in machine.opencl().findings()] == ["NPU"]


def test_the_real_access_check(machine: Machine) -> None:
    machine.gpu().opencl()
    assert driver_findings(machine.root, "linux", {}) == ()


def test_windows_names_the_drivers_to_install(tmp_path: Path) -> None:
    gpu, npu = driver_findings(tmp_path, "win32", {})
    assert "https://www.intel.com/" in gpu.mend
    assert "npu" in npu.mend.lower()


def test_other_systems_have_no_findings(tmp_path: Path) -> None:
    assert driver_findings(tmp_path, "darwin", {}) == ()


def test_a_finding_reads_as_one_line() -> None:
    assert str(Finding("GPU", "no driver", "install it")) == "no driver: install it"
