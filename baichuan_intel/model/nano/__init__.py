"""Two tiny trained checkpoints in the layout of the hub, made by tools/nano/train.py."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from baichuan_intel.errors import ConfigError

NanoKind = Literal["rope", "alibi"]


def nano_path(kind: NanoKind) -> Path:
    """Folder of the bundled checkpoint: "rope" is of the 7B kind, "alibi" of the 13B kind.

    Raises:
        ConfigError: another name.
    """
    if kind not in get_args(NanoKind):
        raise ConfigError(f"no nano model {kind!r}: use one of {', '.join(get_args(NanoKind))}")
    return Path(__file__).with_name(kind)
