"""docs/cli.md, written from the command line's own definitions.

python -m tools.cli_docs            prints it
python -m tools.cli_docs --write    writes docs/cli.md
"""

from __future__ import annotations

import inspect
import sys
from enum import Enum
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parent.parent / "docs" / "cli.md"
PROGRAM = "baichuan-intel"

_INTRODUCTION = f"""\
# Command line

<!-- Written by `python -m tools.cli_docs --write`; a test compares it with the program. -->

`{PROGRAM}` and `python -m baichuan_intel` are the same program. Results go to stdout, progress and
messages to stderr. Exit codes: 0 done, 1 failed (one line says why and what to do), 2 wrong usage.
"""


def command_tree() -> Any:
    """The click command group behind the Typer application."""
    import typer

    from baichuan_intel.cli import app

    return typer.main.get_command(app)


def render() -> str:
    """The whole page."""
    group = command_tree()
    parts = [_INTRODUCTION, _options("Options of the program", group)]
    parts += [_verb(name, command) for name, command in group.commands.items() if not command.hidden]
    return "\n".join(parts)


def _verb(name: str, command: Any) -> str:
    arguments = [p.name.upper() for p in command.params if p.param_type_name == "argument"]
    usage = " ".join([PROGRAM, name, *arguments, "[OPTIONS]"])
    text = inspect.cleandoc(command.help or "").split("\f")[0]
    parts = [f"## {name}\n", f"{text}\n", f"```text\n{usage}\n```\n", _options("", command)]
    return "\n".join(parts)


def _options(title: str, command: Any) -> str:
    rows = [_row(p) for p in command.params if not getattr(p, "hidden", False)]
    rows = [row for row in rows if row]
    if not rows:
        return ""
    head = [f"## {title}\n"] if title else []
    return "\n".join([*head, "| | default | |", "|---|---|---|", *rows, ""])


def _row(param: Any) -> str:
    """One argument or option as a table row."""
    if param.param_type_name == "argument":
        names = f"`{param.name.upper()}`"
    else:
        names = ", ".join(f"`{option}`" for option in [*param.opts, *param.secondary_opts])
    value = param.default
    if isinstance(value, Enum):
        names += f" {' or '.join(choice.value for choice in type(value))}"
        value = value.value
    default = "required" if param.required else f"`{value}`" if value and not callable(value) else ""
    meaning = " ".join((param.help or "").split())
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in (names, default, meaning)) + " |"


def main() -> None:
    """Prints the page, or writes it."""
    page = render()
    if "--write" in sys.argv[1:]:
        PAGE.write_text(page, encoding="utf-8", newline="\n")
    else:
        print(page, end="")


if __name__ == "__main__":
    main()
