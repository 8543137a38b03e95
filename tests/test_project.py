"""What the project ships, and the promises of its own files to each other."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
import zipfile
from email.message import Message
from email.parser import Parser
from importlib.metadata import entry_points, packages_distributions
from pathlib import Path

import pytest

import baichuan_intel
from source import imports

ROOT = Path(__file__).resolve().parent.parent
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (file,) = out.glob("*.whl")
    return zipfile.ZipFile(file)


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = (n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
    return Parser().parsestr(wheel.read(name).decode())


def test_the_wheel_holds_the_package_whole(wheel: zipfile.ZipFile) -> None:
    package = ROOT / "baichuan_intel"
    ours = {
        f.relative_to(ROOT).as_posix()
        for f in package.rglob("*")
        if f.is_file() and "__pycache__" not in f.parts
    }
    shipped = {n for n in wheel.namelist() if ".dist-info/" not in n}
    assert shipped == ours
    assert "baichuan_intel/py.typed" in shipped
    assert any(n.endswith("licenses/LICENSE") for n in wheel.namelist())


@pytest.mark.parametrize("kind", ["rope", "alibi"])
def test_the_wheel_holds_the_nano_models(wheel: zipfile.ZipFile, kind: str) -> None:
    prefix = f"baichuan_intel/model/nano/{kind}/"
    sizes = {
        i.filename.removeprefix(prefix): i.file_size
        for i in wheel.infolist()
        if i.filename.startswith(prefix)
    }
    layout = {"config.json", "generation_config.json", "tokenizer.model", "tokenizer_config.json"}
    assert layout | {"model.safetensors.index.json"} <= set(sizes)
    assert not [name for name in sizes if name.endswith(".py")]
    assert sum(sizes.values()) <= 6_000_000


def requirements(metadata: Message, extra: str = "") -> set[str]:
    """Normalised names of what the base package, or one extra, asks for."""
    marker = f"extra == '{extra}'" if extra else "extra =="
    return {
        re.split(r"[^\w.-]", line, maxsplit=1)[0].lower().replace("_", "-")
        for line in metadata.get_all("Requires-Dist", [])
        if (marker in line) == bool(extra)
    }


def test_running_a_model_asks_for_no_torch_and_no_transformers(metadata: Message) -> None:
    base = requirements(metadata)
    assert {"numpy", "openvino", "openvino-genai", "openvino-tokenizers", "sentencepiece"} <= base
    assert not base & {"torch", "transformers", "huggingface-hub", "modelscope-hub", "protobuf", "jinja2"}


def test_every_import_of_the_package_is_declared_where_it_belongs(metadata: Message) -> None:
    """Imports at the head of a module are of the base package; the others may be of an extra."""
    base = requirements(metadata)
    extras = {
        name for extra in ("convert", "bin", "hub", "modelscope") for name in requirements(metadata, extra)
    }
    owners = packages_distributions()
    for file in (ROOT / "baichuan_intel").rglob("*.py"):
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for line, name, at_import in imports(file.read_text("utf-8"), module):
            top = name.split(".")[0]
            if top in sys.stdlib_module_names or top == "baichuan_intel":
                continue
            distributions = {owner.lower().replace("_", "-") for owner in owners.get(top, [top])}
            allowed = base if at_import else base | extras
            assert distributions & allowed, f"{module}:{line} imports {top}, which pyproject.toml lacks"


def test_the_version_is_in_one_place(metadata: Message) -> None:
    assert metadata["Version"] == baichuan_intel.__version__
    sources = [ROOT / "pyproject.toml", *(ROOT / "baichuan_intel").rglob("*.py")]
    holders = [
        f.name
        for f in sources
        if re.search(rf"\b{re.escape(baichuan_intel.__version__)}\b", f.read_text("utf-8"))
    ]
    assert holders == ["__init__.py"]


def test_the_changelog_knows_this_version() -> None:
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert headings[0] == "Unreleased" or headings[0] == baichuan_intel.__version__


def test_the_command_is_installed_and_is_also_the_module() -> None:
    (command,) = entry_points(group="console_scripts", name="baichuan-intel")
    assert command.value == "baichuan_intel.cli:main"
    done = subprocess.run(
        [sys.executable, "-m", "baichuan_intel", "--help"], capture_output=True, encoding="utf-8", cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert "convert" in done.stdout


def test_every_make_target_that_is_spoken_of_exists() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^(\w+):", makefile, re.MULTILINE))
    spoken = {
        target
        for file in [*TEXTS, ROOT / ".ci" / "run"]
        for target in re.findall(r"(?:^|`)make (\w+)", file.read_text("utf-8"), re.MULTILINE)
    }
    assert {"demo", "test", "check"} <= spoken <= targets


def test_every_extra_that_is_spoken_of_exists(metadata: Message) -> None:
    extras = set(metadata.get_all("Provides-Extra", []))
    files = [*TEXTS, *(ROOT / "baichuan_intel").rglob("*.py")]
    spoken = {
        extra
        for file in files
        for pattern in (
            r"""(?:baichuan-intel|['"]\.)\[([\w,-]+)\]""",
            r"MissingDependencyError\([^,()]+, \"(\w+)\"",
        )
        for group in re.findall(pattern, file.read_text("utf-8"))
        for extra in group.split(",")
    }
    assert {"convert", "bin", "hub", "modelscope"} <= spoken <= extras


def test_ci_runs_what_the_readme_names() -> None:
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    assert "set -euo pipefail" in script
    assert re.findall(r"^make .*$", script, re.MULTILINE) == ["make check", "make test"]
    assert "make test" in (ROOT / "README.md").read_text("utf-8")


def test_a_warning_of_our_own_code_is_an_error() -> None:
    ours = compile("import warnings; warnings.warn('mine')", "ours.py", "exec")
    with pytest.raises(UserWarning, match="mine"):
        exec(ours, {"__name__": "baichuan_intel.anything"})
    with warnings.catch_warnings(record=True) as caught:
        exec(ours, {"__name__": "somebody_else"})
    assert len(caught) == 1
