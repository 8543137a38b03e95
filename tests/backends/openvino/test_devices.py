"""Devices as OpenVINO reports them: recorded property values of real machines, and this machine's CPU."""

from __future__ import annotations

from typing import Any

import psutil
import pytest

from baichuan_intel.backends.openvino import devices
from baichuan_intel.backends.openvino.devices import list_devices, missing_drivers, require_device
from baichuan_intel.errors import DeviceError
from baichuan_intel.hardware.drivers import Finding

ov = pytest.importorskip("openvino")
Kind = ov.properties.device.Type

GPU_BASE = ["FP32", "BIN", "FP16", "INT8", "EXPORT_IMPORT"]
XMX = ["FP32", "BIN", "FP16", "INT8", "GPU_HW_MATMUL", "GPU_USM_MEMORY", "EXPORT_IMPORT"]


def cpu(name: str, capabilities: list[str] | None = None) -> dict[str, Any]:
    return {
        "FULL_DEVICE_NAME": name,
        "DEVICE_ARCHITECTURE": "intel64",
        "DEVICE_TYPE": Kind.INTEGRATED,
        "OPTIMIZATION_CAPABILITIES": capabilities or ["FP32", "FP16", "INT8", "BIN", "EXPORT_IMPORT"],
    }


def gpu(name: str, uarch: str, memory: int, can: list[str], kind: Any, gops: float) -> dict[str, Any]:
    return {
        "FULL_DEVICE_NAME": name,
        "DEVICE_ARCHITECTURE": f"GPU: vendor=0x8086 arch=v{uarch}",
        "DEVICE_TYPE": kind,
        "OPTIMIZATION_CAPABILITIES": can,
        "GPU_DEVICE_TOTAL_MEM_SIZE": memory,
        "GPU_UARCH_VERSION": uarch,
        "GPU_EXECUTION_UNITS_COUNT": 128,
        "DEVICE_GOPS": {
            ov.Type.f16: gops / 2,
            ov.Type.f32: gops / 4,
            ov.Type.i8: gops,
            ov.Type.bf16: 0.0,
        },
    }


def npu(architecture: str, tiles: int) -> dict[str, Any]:
    return {
        "FULL_DEVICE_NAME": "Intel(R) AI Boost",
        "DEVICE_ARCHITECTURE": architecture,
        "DEVICE_TYPE": Kind.INTEGRATED,
        "OPTIMIZATION_CAPABILITIES": ["FP16", "INT8", "EXPORT_IMPORT"],
        "NPU_DEVICE_TOTAL_MEM_SIZE": 34359738368,
        "NPU_DRIVER_VERSION": 1004404,
        "NPU_COMPILER_VERSION": 458778,
        "NPU_MAX_TILES": tiles,
    }


IGPU, DGPU = Kind.INTEGRATED, Kind.DISCRETE
MACHINES: dict[str, dict[str, dict[str, Any]]] = {
    "meteor lake laptop": {
        "CPU": cpu("Intel(R) Core(TM) Ultra 7 155H"),
        "GPU": gpu("Intel(R) Arc(TM) Graphics (iGPU)", "12.71.4", 30477434880, GPU_BASE, IGPU, 18432.0),
        "NPU": npu("3720", 2),
    },
    "lunar lake laptop": {
        "CPU": cpu("Intel(R) Core(TM) Ultra 7 258V"),
        "GPU": gpu("Intel(R) Arc(TM) 140V GPU (16GB) (iGPU)", "20.4.4", 18002051072, XMX, IGPU, 65536.0),
        "NPU": npu("4000", 6),
    },
    "arrow lake laptop": {
        "CPU": cpu("Intel(R) Core(TM) Ultra 7 255H"),
        "GPU": gpu("Intel(R) Arc(TM) 140T GPU (16GB) (iGPU)", "12.74.4", 17878147072, XMX, IGPU, 73728.0),
        "NPU": npu("3720", 2),
    },
    "panther lake laptop": {
        "CPU": cpu("Intel(R) Core(TM) Ultra X7 358H"),
        "GPU": gpu("Intel(R) Arc(TM) B390 GPU (iGPU)", "30.0.4", 58411319296, XMX, IGPU, 122880.0),
        "NPU": npu("5010", 3),
    },
    "desktop with arc a770": {
        "CPU": cpu("13th Gen Intel(R) Core(TM) i7-13700K"),
        "GPU.0": gpu("Intel(R) UHD Graphics 770 (iGPU)", "12.2.0", 53739233280, GPU_BASE, IGPU, 3276.0),
        "GPU.1": gpu("Intel(R) Arc(TM) A770 Graphics (dGPU)", "12.55.8", 16225243136, XMX, DGPU, 314572.0),
    },
    "desktop with arc b580": {
        "CPU": cpu("Intel(R) Core(TM) i5-12400F"),
        "GPU": gpu("Intel(R) Arc(TM) B580 Graphics (dGPU)", "20.1.0", 12168933376, XMX, DGPU, 233472.0),
    },
    "xeon": {
        "CPU": cpu("Intel(R) Xeon(R) Platinum 8480+  ", ["BF16", "FP32", "FP16", "INT8", "EXPORT_IMPORT"]),
    },
}


class FakeCore:
    """openvino.Core's two members that are used, over recorded values."""

    def __init__(self, machine: str) -> None:
        self.properties = MACHINES[machine]
        self.available_devices = list(self.properties)

    def get_property(self, device: str, name: str) -> Any:
        if name == "COMPATIBILITY_CHECK":
            raise TypeError("Unable to convert function return value to a Python type!")
        try:
            return self.properties[device][name]
        except KeyError:
            raise RuntimeError(f"Exception from plugin.cpp: unsupported property {name}") from None


@pytest.fixture(autouse=True)
def _no_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "driver_findings", lambda: ())


@pytest.mark.parametrize("machine", MACHINES)
def test_lists_every_device_with_what_it_reports(machine: str) -> None:
    listed = list_devices(FakeCore(machine))
    assert [d.name for d in listed] == list(MACHINES[machine])
    for device in listed:
        recorded = MACHINES[machine][device.name]
        assert device.full_name == recorded["FULL_DEVICE_NAME"].strip()
        assert device.architecture == recorded["DEVICE_ARCHITECTURE"]
        assert list(device.capabilities) == recorded["OPTIMIZATION_CAPABILITIES"]
        memory = {
            "CPU": psutil.virtual_memory().total,
            "GPU": recorded.get("GPU_DEVICE_TOTAL_MEM_SIZE"),
            "NPU": recorded.get("NPU_DEVICE_TOTAL_MEM_SIZE"),
        }
        assert device.memory_bytes == memory[device.name[:3]]


def test_details_are_text_and_only_what_the_device_has() -> None:
    found = {d.name: d.details for d in list_devices(FakeCore("meteor lake laptop"))}
    assert found["CPU"] == {"type": "integrated"}
    assert found["GPU"] == {
        "type": "integrated",
        "uarch": "12.71.4",
        "execution units": "128",
        "giga-operations/s": "f16 9216, f32 4608, i8 18432",
    }
    assert found["NPU"] == {
        "type": "integrated",
        "driver": "1004404",
        "compiler": "458778",
        "tiles": "2",
    }


@pytest.mark.parametrize(
    ("machine", "auto"),
    [
        ("meteor lake laptop", "GPU"),
        ("desktop with arc a770", "GPU.1"),
        ("desktop with arc b580", "GPU"),
        ("xeon", "CPU"),
    ],
)
def test_auto_is_the_best_single_device(machine: str, auto: str) -> None:
    assert require_device(FakeCore(machine), "AUTO") == auto


def test_auto_is_never_an_npu() -> None:
    core = FakeCore("lunar lake laptop")
    core.available_devices = ["NPU", "CPU"]
    assert require_device(core, "AUTO") == "CPU"
    core.available_devices = ["NPU"]
    with pytest.raises(DeviceError, match="neither a GPU nor a CPU"):
        require_device(core, "AUTO")


@pytest.mark.parametrize(
    ("machine", "asked", "found"),
    [
        ("xeon", "CPU", "CPU"),
        ("xeon", " cpu ", "CPU"),
        ("lunar lake laptop", "NPU", "NPU"),
        ("lunar lake laptop", "GPU.0", "GPU"),
        ("desktop with arc a770", "GPU", "GPU.0"),
        ("desktop with arc a770", "GPU.1", "GPU.1"),
        ("xeon", "AUTO:GPU,CPU", "CPU"),
        ("desktop with arc a770", "AUTO:NPU,GPU.1,CPU", "GPU.1"),
    ],
)
def test_names_resolve_to_a_device_that_is_here(machine: str, asked: str, found: str) -> None:
    assert require_device(FakeCore(machine), asked) == found


@pytest.mark.parametrize(
    "asked", ["", "TPU", "GPU.", "GPU.x", "CPU.1", "HETERO:GPU,CPU", "MULTI:GPU", "AUTO:", "AUTO:GPU,,CPU"]
)
def test_unknown_names_are_refused_with_what_is_here(asked: str) -> None:
    with pytest.raises(DeviceError, match=r"unknown device .*: use CPU, GPU.*\(here: CPU, GPU, NPU\)"):
        require_device(FakeCore("lunar lake laptop"), asked)


def test_a_number_too_high_says_what_openvino_sees() -> None:
    with pytest.raises(DeviceError, match=r"no device GPU\.2: OpenVINO sees CPU, GPU\.0, GPU\.1"):
        require_device(FakeCore("desktop with arc a770"), "GPU.2")


def test_a_kind_without_driver_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    findings = (Finding("GPU", "no OpenCL", "apt install X"), Finding("NPU", "no driver", "see Y"))
    monkeypatch.setattr(devices, "driver_findings", lambda: findings)
    with pytest.raises(DeviceError) as error:
        require_device(FakeCore("xeon"), "NPU")
    assert str(error.value) == "no device NPU (here: CPU): no driver: see Y"
    with pytest.raises(DeviceError, match=r"no OpenCL: apt install X; no driver: see Y"):
        require_device(FakeCore("xeon"), "AUTO:GPU,NPU")
    assert missing_drivers(FakeCore("xeon")) == findings
    assert missing_drivers(FakeCore("desktop with arc b580")) == findings[1:]
    assert missing_drivers(FakeCore("lunar lake laptop")) == ()


def test_an_absent_kind_with_nothing_to_mend_still_says_where_to_look() -> None:
    with pytest.raises(DeviceError, match=r"no Intel GPU in this machine, or a driver too old .*https://"):
        require_device(FakeCore("xeon"), "GPU")


def test_the_real_core_describes_this_cpu() -> None:
    core = ov.Core()
    device = next(d for d in list_devices(core) if d.name == "CPU")
    assert device.full_name == core.get_property("CPU", "FULL_DEVICE_NAME").strip()
    assert "FP32" in device.capabilities
    assert device.memory_bytes == psutil.virtual_memory().total
    assert device.details["type"] == "integrated"
    assert require_device(core, "cpu") == "CPU"
