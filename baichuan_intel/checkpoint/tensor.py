"""One tensor where it lies on disk, and its rows as float32."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from baichuan_intel.errors import CheckpointError

DType = Literal["bf16", "f16", "f32"]


@dataclass(frozen=True)
class StoredTensor:
    """A memory-mapped tensor; ``values`` holds bfloat16 as its uint16 bits, numpy having no such type."""

    values: np.ndarray
    dtype: DType

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows ``start`` to ``stop`` (elements, when 1-d) as a new C-contiguous float32 array.

        Every value is kept exactly: bfloat16 and float16 are subsets of float32.
        """
        block = self.values[start:stop]
        floats = np.empty(block.shape, np.float32)
        if self.dtype == "bf16":
            # A bfloat16 is the upper half of a float32. Widen and shift: twice as fast as writing
            # the halves, which are strided stores.
            bits = floats.view(np.uint32)
            np.copyto(bits, block)
            np.left_shift(bits, 16, out=bits)
        else:
            np.copyto(floats, block)
        return floats


def refuse_quantised(path: Path, names: Iterable[str]) -> None:
    """Refuses the official 4-bit files, which hold bitsandbytes codes beside a quant_state.

    Raises:
        CheckpointError: a name holds "quant_state".
    """
    if any("quant_state" in name for name in names):
        raise CheckpointError(
            f"{path} holds weights quantised by bitsandbytes, which are not supported yet: "
            "use the float checkpoint (the same name without -4bits)"
        )
