"""The OpenVINO backend: a directly built graph, run by openvino-genai's pipelines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baichuan_intel.backends.base import Backend, Device, Session
from baichuan_intel.errors import BackendError
from baichuan_intel.lowbit.recipe import Recipe
from baichuan_intel.model.config import BaichuanConfig

if TYPE_CHECKING:
    from baichuan_intel.hardware.drivers import Finding
    from baichuan_intel.lowbit.scratch import WeightStore


class OpenVINOBackend(Backend):
    """Writes and opens plain OpenVINO GenAI folders."""

    name = "openvino"

    def check_can_write(self) -> None:
        """See `Backend.check_can_write`."""
        from baichuan_intel.backends.openvino.tokenizer_ir import import_converter

        import_converter()

    def write(self, config: BaichuanConfig, recipe: Recipe, weights: WeightStore, folder: Path) -> None:
        """Writes openvino_model.*, openvino_tokenizer.* and openvino_detokenizer.*.

        Raises:
            MissingDependencyError: the ``convert`` extra is not installed.
            TokenizerError: the tokenizer cannot be converted.
            BackendError: OpenVINO could not write the model.
        """
        from baichuan_intel.backends.openvino.graph import save_graph
        from baichuan_intel.backends.openvino.tokenizer_ir import write_tokenizer_ir

        write_tokenizer_ir(folder)
        save_graph(config, recipe, weights, folder / "openvino_model.xml")

    def open(
        self, folder: Path, config: BaichuanConfig, device: str, properties: Mapping[str, Any], key: str
    ) -> Session:
        """Opens ``folder`` through openvino-genai; see `Backend.open`."""
        from baichuan_intel.backends.openvino.session import OpenVINOSession

        return OpenVINOSession(folder, config, device, properties, key)

    def devices(self) -> Iterable[Device]:
        """What OpenVINO's Core sees here."""
        from baichuan_intel.backends.openvino.devices import list_devices

        return list_devices(_openvino().Core())

    def missing_drivers(self) -> tuple[Finding, ...]:
        """What a GPU or NPU of this machine lacks to be seen by OpenVINO."""
        from baichuan_intel.backends.openvino.devices import missing_drivers

        return missing_drivers(_openvino().Core())


def _openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise BackendError(f"openvino cannot be imported ({error}): pip install baichuan-intel") from None
    return openvino
