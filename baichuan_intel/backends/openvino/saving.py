"""Writing a graph as OpenVINO's .xml and .bin, the same bytes each time."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from baichuan_intel.errors import BackendError

# OpenVINO's own names: ShapeOf_12, also of a node that another became.
_NUMBERED = re.compile(r"[A-Z][A-Za-z0-9]*_\d+(\.\d+)?")


def save_model(model: Any, path: Path) -> None:
    """Writes ``model`` as ``path`` (.xml) and the .bin beside it.

    Raises:
        BackendError: OpenVINO could not write it (a full disk, most often).
    """
    import openvino as ov

    _name_by_place(model)
    try:
        ov.save_model(model, path, compress_to_fp16=False)
    except RuntimeError as error:
        why = str(error).strip().splitlines()[-1:]
        raise BackendError(f"OpenVINO could not write {path} (is the disk full?): {''.join(why)}") from error


def _name_by_place(model: Any) -> None:
    """OpenVINO numbers nodes without a name over the life of the process: number them over the model."""
    for n, node in enumerate(model.get_ordered_ops()):
        kind, old = node.get_type_name(), node.get_friendly_name()
        if not _NUMBERED.fullmatch(old):
            continue
        new = f"{kind}_{n}"
        node.set_friendly_name(new)
        for output in node.outputs():
            names = output.get_tensor().get_names()
            if old in names:  # openvino_tokenizers names its inputs so
                output.get_tensor().set_names(names - {old} | {new})
