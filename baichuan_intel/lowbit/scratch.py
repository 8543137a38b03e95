"""WeightStore: quantised weights of a whole model in one scratch file, mapped into memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from baichuan_intel.errors import ArtifactError
from baichuan_intel.lowbit.quantize import QuantizedTensor
from baichuan_intel.lowbit.recipe import Format

# A cache line, and the alignment that OpenVINO gives its own constants.
_ALIGNMENT = 64
_ZEROS = bytes(1 << 20)


class WeightStore:
    """Named tensors in the file ``path``, which must not exist and is gone after `close`.

    Its pages are a shared file mapping: the kernel writes them out when memory is short, so they
    are no private memory of the process. The file has no name while it is open (Linux) or is
    deleted by the system with the process (Windows): a killed conversion leaves nothing behind.

    Raises:
        ArtifactError: the file exists or cannot be made, or the disk is full.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._tensors: dict[str, QuantizedTensor | np.ndarray] = {}
        self._end = 0
        temporary = getattr(os, "O_TEMPORARY", 0)  # Windows: deleted when the last handle closes
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | temporary
        try:
            self._file = os.fdopen(os.open(self._path, flags, 0o600), "r+b", buffering=0)
            if not temporary:
                os.unlink(self._path)
        except FileExistsError:
            raise ArtifactError(f"{self._path} already exists: remove it, or write elsewhere") from None
        except OSError as error:
            raise ArtifactError(f"{self._path} cannot be created: {error.strerror}") from None

    def new_quantized(self, name: str, shape: tuple[int, int], format: Format) -> QuantizedTensor:
        """A tensor to be filled, its arrays writable views of the file.

        Raises:
            ArtifactError: the name is taken, or the disk is full.
        """
        self._check_free(name)
        tensor = QuantizedTensor.empty(shape, format, self._new)
        self._tensors[name] = tensor
        return tensor

    def new_float(self, name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """A plain array to be filled, a writable view of the file.

        Raises:
            ArtifactError: the name is taken, or the disk is full.
        """
        self._check_free(name)
        array = self._new(shape, dtype)
        self._tensors[name] = array
        return array

    def __getitem__(self, name: str) -> QuantizedTensor | np.ndarray:
        return self._tensors[name]

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def close(self) -> None:
        """Deletes the file; its space is free once no view of it is left. Idempotent."""
        self._tensors.clear()
        self._file.close()

    def __enter__(self) -> WeightStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_free(self, name: str) -> None:
        if name in self._tensors:
            raise ArtifactError(f"{name} is already in the scratch file")

    def _new(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        start = -(-self._end // _ALIGNMENT) * _ALIGNMENT
        array_type = np.dtype(dtype)
        size = int(np.prod(shape)) * array_type.itemsize
        try:
            self._allocate(start, size)
            array = np.memmap(self._file, dtype=array_type, mode="r+", offset=start, shape=shape)
        except OSError as error:
            raise ArtifactError(
                f"{self._path.parent} has no room for {size / 1e6:.1f} MB more of quantised weights "
                f"({error.strerror}): free some space, or write to another disk"
            ) from None
        self._end = start + size
        return array

    def _allocate(self, start: int, size: int) -> None:
        """Blocks on disk for the bytes: storing into a hole of a full disk would kill the process."""
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._file.fileno(), start, size)
            return
        self._file.seek(0, os.SEEK_END)
        while (left := start + size - self._file.tell()) > 0:
            self._file.write(_ZEROS[:left])
