"""The devices that OpenVINO sees here, and the choice of one by name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from baichuan_intel.backends.base import Device
from baichuan_intel.errors import DeviceError
from baichuan_intel.hardware.drivers import GPU_LINUX, NPU_LINUX, Finding, driver_findings

NAMES = "CPU, GPU, GPU.1, NPU, AUTO or AUTO:GPU,CPU"
_ONE = re.compile(r"CPU|NPU|GPU(\.\d+)?")
# AUTO's order; an NPU is never chosen unasked, since it runs only some recipes and short prompts.
_AUTO_KINDS = ("discrete GPU", "GPU", "CPU")
# What `Device.details` holds, and the properties of OpenVINO that tell it: the first a device has.
_DETAILS = {
    "type": ("DEVICE_TYPE",),
    "driver": ("GPU_DRIVER_VERSION", "NPU_DRIVER_VERSION"),
    "compiler": ("NPU_COMPILER_VERSION",),
    "uarch": ("GPU_UARCH_VERSION",),
    "execution units": ("GPU_EXECUTION_UNITS_COUNT",),
    "tiles": ("NPU_MAX_TILES",),
    "largest allocation": ("GPU_DEVICE_MAX_ALLOC_MEM_SIZE",),
    "giga-operations/s": ("DEVICE_GOPS",),
}


def list_devices(core: Any) -> list[Device]:
    """The devices of an ``openvino.Core``, in its order. A property that a device lacks stays out."""
    return [describe(core, name) for name in core.available_devices]


def describe(core: Any, name: str) -> Device:
    """What ``core`` tells of the device ``name``, which is one of its ``available_devices``."""
    architecture = _property(core, name, "DEVICE_ARCHITECTURE")
    details = {key: _text(_first(core, name, properties)) for key, properties in _DETAILS.items()}
    return Device(
        name=name,
        full_name=str(_property(core, name, "FULL_DEVICE_NAME") or name).strip(),
        architecture=None if architecture is None else str(architecture),
        memory_bytes=_memory(core, name),
        capabilities=tuple(map(str, _property(core, name, "OPTIMIZATION_CAPABILITIES") or ())),
        details={key: text for key, text in details.items() if text},
    )


def missing_drivers(core: Any) -> tuple[Finding, ...]:
    """What keeps the kinds of device that ``core`` does not see from working on this machine."""
    kinds = {_kind(name) for name in core.available_devices}
    return tuple(finding for finding in driver_findings() if finding.device not in kinds)


def require_device(core: Any, device: str) -> str:
    """The name in ``core.available_devices`` that ``device`` means.

    ``GPU`` is the first GPU. ``AUTO`` is one device, chosen here once: the first discrete GPU, else
    the first GPU, else the CPU; ``AUTO:GPU,CPU`` the first of the list that is here. (OpenVINO's AUTO
    does no more for a language model, and would hide from us which device's settings to make.)

    Raises:
        DeviceError: no such device, none here, or its driver is missing.
    """
    asked = device.strip().upper()
    here = list(core.available_devices)
    if asked == "AUTO":
        return _best(core, here)
    listed = asked.removeprefix("AUTO:").split(",") if asked.startswith("AUTO:") else [asked]
    for name in listed:
        if not _ONE.fullmatch(name):
            raise DeviceError(f"unknown device {device!r}: use {NAMES} (here: {_listing(here)})")
    found = next((match for match in (_match(name, here) for name in listed) if match), None)
    if found is None:
        raise DeviceError(_absence(device, [_kind(name) for name in listed], here))
    return found


def _match(name: str, here: Sequence[str]) -> str | None:
    """OpenVINO calls a lone GPU "GPU", several "GPU.0", "GPU.1"; GPU.0 and GPU are the same."""
    aliases = {"GPU": ("GPU", "GPU.0"), "GPU.0": ("GPU.0", "GPU")}.get(name, (name,))
    return next((alias for alias in aliases if alias in here), None)


def _best(core: Any, here: Sequence[str]) -> str:
    ranked = sorted(
        (name for name in here if _kind(name) in ("GPU", "CPU")),
        key=lambda name: _AUTO_KINDS.index(_auto_kind(core, name)),
    )
    if not ranked:
        raise DeviceError(f"AUTO finds neither a GPU nor a CPU (here: {_listing(here)}): reinstall openvino")
    return ranked[0]


def _auto_kind(core: Any, name: str) -> str:
    if _kind(name) == "CPU":
        return "CPU"
    return "discrete GPU" if _text(_property(core, name, "DEVICE_TYPE")) == "discrete" else "GPU"


def _absence(device: str, kinds: Sequence[str], here: Sequence[str]) -> str:
    same = [name for name in here if _kind(name) in kinds]
    if same:
        return f"no device {device}: OpenVINO sees {_listing(here)}"
    mends = [str(finding) for finding in driver_findings() if finding.device in kinds] or [
        f"no Intel {kind} in this machine, or a driver too old for it ({page})"
        for kind, page in (("GPU", GPU_LINUX), ("NPU", NPU_LINUX))
        if kind in kinds
    ]
    return f"no device {device} (here: {_listing(here)}): {'; '.join(mends)}"


def _kind(name: str) -> str:
    return name.partition(".")[0]


def _listing(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _memory(core: Any, name: str) -> int | None:
    """Bytes of RAM for the CPU, and what the runtime may use for the others."""
    if _kind(name) == "CPU":
        import psutil

        return int(psutil.virtual_memory().total)
    size = _first(core, name, (f"{_kind(name)}_DEVICE_TOTAL_MEM_SIZE",))
    return int(size) if size else None


def _first(core: Any, device: str, properties: Sequence[str]) -> Any:
    values = (_property(core, device, name) for name in properties)
    return next((value for value in values if value is not None), None)


def _property(core: Any, device: str, name: str) -> Any:
    """The property's value, None if the device has none.

    OpenVINO throws for an unknown property, and for a value that has no Python type.
    """
    try:
        return core.get_property(device, name)
    except (RuntimeError, TypeError):
        return None


def _text(value: Any) -> str:
    """A value of OpenVINO's as text: maps of element types without their zeros, enums by name."""
    if isinstance(value, dict):
        return ", ".join(f"{_text(k)} {v:.0f}" for k, v in value.items() if v)
    if hasattr(value, "get_type_name"):  # openvino.Type
        return str(value.get_type_name())
    if type(value).__module__.startswith("openvino"):  # an enum, printed as Type.DISCRETE
        return str(value).rpartition(".")[2].lower()
    return "" if value is None else str(value)
