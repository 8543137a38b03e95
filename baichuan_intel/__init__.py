"""Baichuan 2 in INT4 on Intel hardware: convert once, then load and chat.

The public names are loaded when they are first used: ``import baichuan_intel`` imports no runtime.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from baichuan_intel import errors

if TYPE_CHECKING:
    from baichuan_intel.backends.base import Generation
    from baichuan_intel.convert import convert
    from baichuan_intel.load import Model, load
    from baichuan_intel.lowbit.quantize import QuantizedTensor
    from baichuan_intel.lowbit.recipe import Recipe
    from baichuan_intel.model.config import BaichuanConfig
    from baichuan_intel.model.sampling import Sampling

__version__ = "0.1.0"

__all__ = [
    "BaichuanConfig",
    "Generation",
    "Model",
    "QuantizedTensor",
    "Recipe",
    "Sampling",
    "__version__",
    "convert",
    "errors",
    "load",
]

# A public name and the module that holds it.
_HOME = {
    "BaichuanConfig": "model.config",
    "Generation": "backends.base",
    "Model": "load",
    "QuantizedTensor": "lowbit.quantize",
    "Recipe": "lowbit.recipe",
    "Sampling": "model.sampling",
    "convert": "convert",
    "load": "load",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """Keeps ``convert`` and ``load`` the functions.

    Importing the submodule ``baichuan_intel.load`` would bind the module to that name here.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
