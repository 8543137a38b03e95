"""README and docs do what they say."""

from __future__ import annotations

import contextlib
import inspect
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from baichuan_intel import errors
from tools import cli_docs, record_docs

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of ``language`` in ``page``, outside of lists."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=name)
def test_python_blocks_run_in_order(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for number, block in enumerate(blocks(page, "python")):
        exec(compile(block, f"{name(page)}, python block {number}", "exec"), namespace)
    out = capsys.readouterr().out
    if "夜雨寄北" in page.read_text("utf-8") and "poem" not in namespace:
        assert "李商隐" in out


def commands() -> list[Any]:
    """Every `baichuan-intel …` line of a console block, with where it stands."""
    return [
        pytest.param(line.removeprefix("$ "), id=f"{name(page)}: {line[2:60]}")
        for page in PAGES
        for block in blocks(page, "console")
        for line in block.splitlines()
        if line.startswith("$ baichuan-intel")
    ]


@pytest.mark.parametrize("line", commands())
def test_console_commands_parse(line: str) -> None:
    """A wrong verb, option or number of arguments raises; nothing is run."""
    _, verb, *arguments = shlex.split(line.split(" < ")[0])
    command = cli_docs.command_tree().commands[verb]
    with contextlib.closing(command.make_context(verb, arguments)) as context:
        assert context.params


def test_a_wrong_console_command_does_not_parse() -> None:
    with pytest.raises(Exception, match="--no-such-option"):
        test_console_commands_parse("baichuan-intel convert a b --no-such-option")
    with pytest.raises(KeyError):
        test_console_commands_parse("baichuan-intel transmogrify a b")


def test_options_in_running_text_exist() -> None:
    known = {
        option
        for command in [cli_docs.command_tree(), *cli_docs.command_tree().commands.values()]
        for param in command.params
        for option in [*param.opts, *param.secondary_opts]
    } | {"--help"}
    spoken = {
        option for page in PAGES for option in re.findall(r"`(--[a-z][a-z-]+)", page.read_text("utf-8"))
    }
    assert {"--overwrite", "--recipe"} <= spoken <= known


def test_the_command_line_page_is_the_programs_own() -> None:
    assert cli_docs.PAGE.read_text("utf-8") == cli_docs.render(), "run: python -m tools.cli_docs --write"


def test_the_measurements_page_is_of_the_committed_records() -> None:
    page = record_docs.PAGE.read_text("utf-8")
    assert page == record_docs.render(), "run: python -m tools.record_docs --write"


def test_a_record_becomes_a_table(tmp_path: Path) -> None:
    rows = [
        {"name": "7b: artifact, bytes", "value": 4_370_000_000, "limit": 4.4e9, "pass": True},
        {"name": "7b: seconds", "value": 91.26, "limit": 90, "pass": False},
    ]
    machine = {
        "cpu": "Some CPU",
        "threads": 2,
        "memory_bytes": 25_276_063_744,
        "kernel": "6.1",
        "python": "3.11.7",
    }
    record = {
        "what": "convert, default recipe",
        "date": "2026-11-23",
        "machine": machine | {"packages": {"openvino": "2026.4.1"}},
        "rows": rows,
    }
    (tmp_path / "convert.json").write_text(json.dumps(record), encoding="utf-8")
    page = record_docs.render(tmp_path)
    assert "| 7b: artifact | 4.37 GB | 4.40 GB | yes |" in page
    assert "| 7b: seconds | 91.26 | 90 | **no** |" in page
    assert (
        "2026-11-23, Some CPU, 2 threads, 25 GB of memory, Linux 6.1; Python 3.11.7, openvino 2026.4.1."
        in page
    )


def test_every_error_has_its_mend() -> None:
    classes = {
        n for n, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, errors.BaichuanError)
    }
    page = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    assert set(re.findall(r"^\| `(\w+Error)` \|", page, re.MULTILINE)) == classes - {"BaichuanError"}


def test_every_error_is_in_the_tree_of_its_module() -> None:
    """The tree in the docstring has each class once, indented under its parent."""
    drawn: dict[str, str] = {}
    stack: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        if not (match := re.match(r"[\s│├└─]*(\w+Error)\b", line)):
            continue
        depth, found = match.start(1), match.group(1)
        stack = [(d, n) for d, n in stack if d < depth]
        drawn[found] = stack[-1][1] if stack else "Exception"
        stack.append((depth, found))
    real = {
        n: c.__base__.__name__
        for n, c in inspect.getmembers(errors, inspect.isclass)
        if issubclass(c, errors.BaichuanError)
    }
    assert drawn == real


def test_every_recipe_is_described_as_it_is() -> None:
    from baichuan_intel.lowbit.recipe import DEFAULT_RECIPE, RECIPES

    page = (ROOT / "docs" / "recipes.md").read_text("utf-8")
    table = page[: page.index("`lm_head` and the embedding")]
    rows = dict(re.findall(r"^\| `([\w-]+)` \| (.+?) \|$", table, re.MULTILINE))
    assert list(rows) == list(RECIPES)
    for recipe_name, recipe in RECIPES.items():
        row = rows[recipe_name]
        width = f"float{recipe.bits}" if recipe.bits >= 16 else f"{recipe.bits} bits"
        assert row.startswith(width)
        assert ("zero point" in row) == (not recipe.symmetric)
        if recipe.group_size and recipe.ratio == 1:
            assert f"{recipe.group_size} weights" in row
        assert ("the default" in row) == (recipe_name == DEFAULT_RECIPE)


def test_every_sampling_field_is_described_with_its_default() -> None:
    import dataclasses

    from baichuan_intel import Sampling

    page = (ROOT / "docs" / "quickstart.md").read_text("utf-8")
    table = page[page.index("| field |") : page.index("## A real model")]
    assert set(re.findall(r"`(\w+)`", table)) == {f.name for f in dataclasses.fields(Sampling)}
    default = Sampling()
    shown = f"| {default.temperature}, {default.top_k}, {default.top_p} |"
    assert shown in table
    assert f"| {default.max_new_tokens} |" in table
    assert f"| {default.repetition_penalty} |" in table


def test_the_chats_commands_are_those_of_its_help() -> None:
    from baichuan_intel.terminal import _HELP

    page = (ROOT / "docs" / "quickstart.md").read_text("utf-8")
    table = page[page.index("In the terminal chat") : page.index("Ctrl-C stops an answer and")]
    assert set(re.findall(r"`(/\w+)", table)) == set(re.findall(r"^(/\w+)", _HELP, re.MULTILINE))


def test_the_environment_variables_are_those_of_the_code() -> None:
    from baichuan_intel.backends.openvino import cache

    page = (ROOT / "docs" / "recipes.md").read_text("utf-8")
    assert f"| `{cache.FOLDER}` |" in page
    assert f"| `{cache.LIMIT}` | its limit in gigabytes, {cache.DEFAULT_LIMIT_GB:.0f} by default" in page


def test_the_npu_limits_are_those_of_the_code() -> None:
    from baichuan_intel.backends.openvino.properties import ALLOW_LONG_PROMPT, NPU_SAFE_PROMPT, NpuLimits

    page = (ROOT / "docs" / "recipes.md").read_text("utf-8")
    limits = NpuLimits()
    assert f"`MAX_PROMPT_LEN` ({limits.max_prompt_len} tokens by default)" in page
    assert f"`MIN_RESPONSE_LEN` ({limits.min_response_len})" in page
    assert f"above {NPU_SAFE_PROMPT} tokens are refused altogether unless `{ALLOW_LONG_PROMPT}=YES`" in page


def test_the_artifact_page_lists_every_file(tmp_path: Path) -> None:
    import baichuan_intel as bi
    from baichuan_intel.model.nano import nano_path

    bi.convert(nano_path("alibi"), tmp_path / "out")
    page = (ROOT / "docs" / "artifact.md").read_text("utf-8")
    table = page[page.index("| file |") : page.index("Nothing else is in it")]
    listed = set()
    for row in re.findall(r"^\| (`.+?) \|", table, re.MULTILINE):
        first, *suffixes = re.findall(r"`(.+?)`", row)
        listed |= {first, *(first.rsplit(".", 1)[0] + s for s in suffixes)}
    assert listed == {f.name for f in (tmp_path / "out").iterdir()}


def test_links_from_the_readme_lead_somewhere() -> None:
    for file in (ROOT / "README.md", ROOT / "CONTRIBUTING.md"):
        links = re.findall(r"\]\((?!https?://|#)([^)#]+)", file.read_text("utf-8"))
        assert links
        assert [link for link in links if not (ROOT / link).exists()] == []
