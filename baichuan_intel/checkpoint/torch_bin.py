"""A pytorch_model*.bin file, read by torch without running what it holds, and memory-mapped."""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

from baichuan_intel.checkpoint.tensor import DType, StoredTensor, refuse_quantised
from baichuan_intel.errors import CheckpointError, MissingDependencyError, UnsafeFileError

# The pickle beside the weights: names and shapes, about 300 bytes a tensor.
_PICKLE_LIMIT_BYTES = 16 << 20


def open_torch_bin(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one file, over a private memory map that nothing writes to.

    torch unpickles with ``weights_only=True``: a file that names any other function is refused
    before the function is looked up.

    Raises:
        MissingDependencyError: torch is not installed.
        UnsafeFileError: the file holds Python code.
        CheckpointError: truncated, of the format before PyTorch 1.6, or not a dictionary of
            bfloat16, float16 and float32 tensors.
    """
    torch = _torch()
    _check_archive(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise _refused(path, str(error)) from error
    except Exception as error:  # torch checks little itself: a damaged pickle can raise anything
        raise _damaged(path, error) from error
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise CheckpointError(f"{path} does not hold named tensors: use the checkpoint's own weight files")
    refuse_quantised(path, state)
    return {name: _stored(torch, path, name, value) for name, value in state.items()}


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        raise MissingDependencyError("torch", "bin", "reading pytorch_model.bin") from None
    return torch


def _check_archive(path: Path) -> None:
    """Refuses what torch would load into memory, or run."""
    try:
        with path.open("rb") as file:
            start = file.read(1)
        # Every pickle of protocol 2 and above starts with this byte.
        if start == b"\x80":
            raise UnsafeFileError(
                f"{path} is a bare pickle (PyTorch's format until 1.6), which can hold code and cannot be "
                "memory-mapped: use a checkpoint in safetensors, or save it again with a current torch"
            )
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError) as error:
        raise _damaged(path, error) from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    if any(entry.filename.endswith("constants.pkl") for entry in entries):
        raise UnsafeFileError(f"{path} is a TorchScript program, which was not run: use a file of weights")
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED:
            raise CheckpointError(f"{path} is compressed, which torch.save never does: download it again")
        if entry.filename.endswith(".pkl") and entry.file_size > _PICKLE_LIMIT_BYTES:
            raise CheckpointError(
                f"{path}: {entry.filename!r} is over 16 MiB, too large for names and shapes"
            )


def _stored(torch: Any, path: Path, name: str, value: Any) -> StoredTensor:
    kinds: dict[Any, DType] = {torch.bfloat16: "bf16", torch.float16: "f16", torch.float32: "f32"}
    if not isinstance(value, torch.Tensor):
        raise CheckpointError(
            f"{path}: {name!r} is a {type(value).__name__}, not a tensor: use the float checkpoint"
        )
    kind = kinds.get(value.dtype)
    if kind is None or value.layout != torch.strided or value.device.type != "cpu" or value.is_neg():
        raise CheckpointError(
            f"{path}: tensor {name!r} is {value.dtype}, {value.layout}, {value.device}; only dense bfloat16, "
            "float16 and float32 weights can be converted: use the float checkpoint"
        )
    value = value.detach()
    values = value.view(torch.int16).numpy().view("uint16") if kind == "bf16" else value.numpy()
    values.flags.writeable = False
    return StoredTensor(values, kind)


def _refused(path: Path, message: str) -> CheckpointError:
    """One line out of torch's pages: what the file asked for, or that its pickle is damaged."""
    names = re.search(r"GLOBAL (\S+)", message)
    if names:
        return UnsafeFileError(
            f"{path} holds Python code ({names[1]}), which was not run: use weights in safetensors, "
            "from a source you trust"
        )
    return _damaged(path, message.strip().splitlines()[-1])


def _damaged(path: Path, why: object) -> CheckpointError:
    line = " ".join(str(why).split())[:200]
    return CheckpointError(f"{path} is damaged or truncated ({line}): download it again")
