"""The order of the rooms, and the lightness of the first import."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from source import imports

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "baichuan_intel"
FILES = sorted(PACKAGE.rglob("*.py"))

# A room may import from itself and from rooms of a lower number.
LEVEL = {
    "errors": 0,
    "progress": 1,
    "model": 2,
    "hardware": 2,
    "checkpoint": 3,
    "lowbit": 4,
    "artifact": 5,
    "backends": 6,
    "convert": 7,
    "load": 7,
    "transformers": 8,
    "bench": 8,
    "evaluate": 8,
    "serve": 8,
    # What the command line shows on a terminal.
    "show": 9,
    "terminal": 10,
    "options": 10,
    "demo": 11,
    "cli": 12,
    "__main__": 13,
}
HEAVY = {
    "huggingface_hub",
    "modelscope_hub",
    "openvino",
    "openvino_genai",
    "openvino_tokenizers",
    "torch",
    "transformers",
}


def violations(source: str, module: str) -> list[str]:
    """What ``source``, the text of ``module``, does against the order."""
    room = module.split(".")[1]
    found = []
    for line, name, at_import in imports(source, module):
        first, *rest = name.split(".")
        if first in HEAVY and at_import:
            found.append(f"{module}:{line} imports {first} at import time: move it into a function")
        if first != "baichuan_intel" or rest[0] in ("__version__", room):
            continue
        if rest[0] not in LEVEL:
            found.append(f"{module}:{line} imports {name}, which is in no room")
        elif LEVEL[rest[0]] >= LEVEL[room]:
            found.append(f"{module}:{line} in {room} imports {rest[0]}, which is not below it")
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.relative_to(PACKAGE).as_posix())
def test_rooms_import_only_what_is_below_them(file: Path) -> None:
    module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
    source = file.read_text("utf-8")
    if file == PACKAGE / "__init__.py":
        own = {name for _, name, at_import in imports(source, module) if at_import and "baichuan" in name}
        assert own == {"baichuan_intel.errors"}
    else:
        assert violations(source, module) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("baichuan_intel.model.config", "from baichuan_intel.lowbit.recipe import Recipe"),
        ("baichuan_intel.model.config", "def f():\n    from baichuan_intel.load import load"),
        ("baichuan_intel.model.config", "import baichuan_intel.cli"),
        ("baichuan_intel.model.config", "from baichuan_intel import convert"),
        ("baichuan_intel.lowbit.quantize", "from ..artifact import store"),
        ("baichuan_intel.hardware.plan", "import baichuan_intel.model.config"),
        ("baichuan_intel.load", "from baichuan_intel.convert import convert"),
        ("baichuan_intel.cli", "from baichuan_intel import Model"),
        ("baichuan_intel.cli", "import torch"),
        ("baichuan_intel.cli", "try:\n    from openvino import Core\nexcept ImportError:\n    pass"),
        ("baichuan_intel.cli", "class A:\n    import transformers"),
    ],
)
def test_a_breach_of_the_order_is_found(module: str, source: str) -> None:
    assert len(violations(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("baichuan_intel.lowbit.recipe", "from baichuan_intel.model.config import BaichuanConfig"),
        ("baichuan_intel.lowbit.quantize", "from .recipe import Recipe\nfrom ..errors import RecipeError"),
        ("baichuan_intel.artifact.manifest", "from baichuan_intel import __version__, errors"),
        ("baichuan_intel.cli", "def f():\n    import torch"),
        ("baichuan_intel.cli", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch"),
        ("baichuan_intel.transformers", "from baichuan_intel.transformers import x"),
    ],
)
def test_the_order_lets_the_rest_pass(module: str, source: str) -> None:
    assert violations(source, module) == []


def fresh(code: str) -> object:
    """The json that ``code`` prints in a new interpreter."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_the_package_imports_no_runtime() -> None:
    loaded = fresh("import baichuan_intel, sys, json; print(json.dumps(list(sys.modules)))")
    assert isinstance(loaded, list)
    assert "baichuan_intel.errors" in loaded
    assert not {name.split(".")[0] for name in loaded} & (HEAVY | {"numpy", "sentencepiece", "typer", "rich"})


def test_building_the_command_line_imports_no_runtime() -> None:
    loaded = fresh("import baichuan_intel.cli, sys, json; print(json.dumps(list(sys.modules)))")
    assert isinstance(loaded, list)
    assert not {name.split(".")[0] for name in loaded} & (HEAVY | {"numpy", "sentencepiece"})


def test_every_public_name_is_there_and_of_its_own_kind() -> None:
    code = """
import baichuan_intel as bi, json
kinds = {name: type(getattr(bi, name)).__name__ for name in bi.__all__}
assert dir(bi) == sorted(bi.__all__)
print(json.dumps(kinds))
"""
    kinds = fresh(code)
    assert isinstance(kinds, dict)
    assert kinds.pop("__version__") == "str"
    assert kinds.pop("errors") == "module"
    assert {kinds.pop("convert"), kinds.pop("load")} == {"function"}
    assert set(kinds.values()) <= {"type", "ABCMeta"}


def test_importing_the_modules_convert_and_load_keeps_the_functions() -> None:
    code = """
import json
import baichuan_intel.load, baichuan_intel.convert
import baichuan_intel as bi
from baichuan_intel import convert
print(json.dumps([callable(bi.load), callable(bi.convert), callable(convert)]))
"""
    assert fresh(code) == [True, True, True]


def test_an_unknown_name_is_an_attribute_error() -> None:
    import baichuan_intel

    with pytest.raises(AttributeError, match="no_such_name"):
        _ = baichuan_intel.no_such_name
