"""A checkpoint folder as named tensors, read a few rows at a time."""

from __future__ import annotations

import json
import os.path
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from baichuan_intel.checkpoint.safetensors import open_safetensors
from baichuan_intel.checkpoint.tensor import StoredTensor
from baichuan_intel.checkpoint.torch_bin import open_torch_bin
from baichuan_intel.errors import CheckpointError, TensorError, UnsafeFileError
from baichuan_intel.model.config import BaichuanConfig

# In the order of preference: safetensors needs no torch and holds no code.
_WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_INDEX_LIMIT_BYTES = 16 << 20
# Buffers that Baichuan 1 saved beside its weights; they follow from the config.
_IGNORED = "rotary_emb.inv_freq"


class Checkpoint:
    """The open weight files of one folder; use it as a context manager.

    Nothing is read before `rows` asks for it, and what is read stays in the system's page cache:
    private memory holds only the blocks that `rows` returns. `rows` may be called from several
    threads at once.
    """

    def __init__(self, folder: Path, files: tuple[Path, ...], tensors: dict[str, StoredTensor]) -> None:
        self.folder = folder
        self.files = files
        self.shapes: dict[str, tuple[int, ...]] = {n: t.values.shape for n, t in tensors.items()}
        self.dtypes: dict[str, str] = {name: tensor.dtype for name, tensor in tensors.items()}
        self._tensors = tensors

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows ``start`` to ``stop`` of a tensor (elements, when 1-d) as a new float32 array.

        Raises:
            TensorError: no such tensor, or no such rows.
        """
        tensor = self._tensors.get(name)
        if tensor is None:
            raise TensorError(f"{self.folder} has no tensor {name!r}: download the checkpoint again")
        length = tensor.values.shape[0] if tensor.values.ndim else 0
        if not 0 <= start <= stop <= length:
            raise TensorError(f"{name!r} has {length} rows, not {start} to {stop}")
        return tensor.rows(start, stop)

    def check(self, config: BaichuanConfig) -> None:
        """Compares names and shapes with what ``config`` asks for.

        Raises:
            TensorError: a tensor is missing, extra, or of another shape; names it.
        """
        expected = config.tensor_shapes()
        found = {name: shape for name, shape in self.shapes.items() if not name.endswith(_IGNORED)}
        missing = [name for name in expected if name not in found]
        if missing:
            raise TensorError(f"{self.folder} lacks {_listed(missing)}: download the checkpoint again")
        extra = [name for name in found if name not in expected]
        if extra:
            raise TensorError(
                f"{self.folder} holds {_listed(extra)}, which no Baichuan model of its config.json has: "
                "use the config.json and the weights of one checkpoint, any adapter merged into it"
            )
        for name, shape in expected.items():
            if found[name] != shape:
                raise TensorError(
                    f"{self.folder}: {name!r} has shape {list(found[name])} and config.json asks for "
                    f"{list(shape)}: use the config.json and the weights of one checkpoint"
                )

    def close(self) -> None:
        """Lets go of the files. Idempotent; arrays that `rows` gave out stay valid."""
        self._tensors = {}

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_checkpoint(folder: str | Path) -> Checkpoint:
    """Opens ``model.safetensors`` or ``pytorch_model.bin``, in one file or in shards with an index.

    Raises:
        CheckpointError: no such folder, no weights in it, or a file that is damaged, missing or
            not supported; `UnsafeFileError` when a file holds code or the index leaves the folder.
        MissingDependencyError: the weights are in a .bin file and torch is not installed.
    """
    folder = Path(folder)
    if not os.path.isdir(folder):  # unlike Path's own test, never raises
        what = "is not a folder" if os.path.exists(folder) else "does not exist"
        raise CheckpointError(f"{folder} {what}: give the folder of a Baichuan checkpoint")
    for name in _WEIGHT_FILES:
        file = folder / name
        if os.path.isfile(file):
            return _open_shards(folder, file) if name.endswith(".json") else _open_files(folder, [file])
    raise CheckpointError(f"{folder} holds no weights (none of {', '.join(_WEIGHT_FILES)}): download them")


def _open_files(folder: Path, files: list[Path]) -> Checkpoint:
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        found = open_safetensors(file) if file.name.endswith(".safetensors") else open_torch_bin(file)
        twice = [name for name in found if name in tensors]
        if twice:
            raise CheckpointError(
                f"{file} and an earlier shard both hold {_listed(twice)}: download them again"
            )
        tensors |= found
    return Checkpoint(folder, tuple(files), tensors)


def _open_shards(folder: Path, index: Path) -> Checkpoint:
    places = _read_index(index)
    files = [folder / name for name in sorted(set(places.values()))]
    for file in files:
        if not os.path.isfile(file):
            raise CheckpointError(f"{index} names {file.name!r}, which is not there: download it")
    checkpoint = _open_files(folder, files)
    missing = [name for name in places if name not in checkpoint.shapes]
    if missing:
        raise CheckpointError(
            f"{index} promises {_listed(missing)}, which no shard holds: download them again"
        )
    return checkpoint


def _read_index(index: Path) -> dict[str, str]:
    """The weight_map: tensor name to the plain name of a shard beside the index."""
    try:
        with index.open("rb") as file:
            text = file.read(_INDEX_LIMIT_BYTES + 1)
        if len(text) > _INDEX_LIMIT_BYTES:
            raise ValueError("it is over 16 MiB")
        raw: Any = json.loads(text.decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{index} cannot be read as JSON ({error}): download it again") from None
    places = raw.get("weight_map") if isinstance(raw, dict) else None
    if not isinstance(places, dict) or not places or not all(isinstance(p, str) for p in places.values()):
        raise CheckpointError(f"{index} has no weight_map of tensors to files: download it again")
    for place in places.values():
        _check_plain(index, place)
    return places


def _check_plain(index: Path, name: str) -> None:
    """A shard lies beside its index. Its file may be a symbolic link, as in the hub's cache."""
    suffix = ".bin" if index.name.endswith(".bin.index.json") else ".safetensors"
    if any(c in name for c in "/\\:\0") or not name.endswith(suffix):
        raise UnsafeFileError(
            f"{index} names {name!r}: a shard must be a {suffix} file beside the index; "
            "use the index that came with the weights"
        )


def _listed(names: list[str]) -> str:
    """The first few names, and how many more."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ("tensor " if len(names) == 1 else "tensors ") + ", ".join(map(repr, names[:3])) + more
