"""docs/measurements.md, written from the records in benchmarks/results.

python -m tools.record_docs            prints it
python -m tools.record_docs --write    writes docs/measurements.md
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "measurements.md"
RECORDS = ROOT / "benchmarks" / "results"

_INTRODUCTION = """\
# Measurements

<!-- Written by `python -m tools.record_docs --write`; a test compares it with the records. -->

Every section is one record of `benchmarks/results`, which also holds the raw values; without a table they
are all there is. The scripts beside it make their checkpoints themselves: the real geometry with random
weights, which cost as much to convert and to run as trained ones. "Limit" is what the project asks of
itself. Nothing has been measured on an Intel GPU or NPU yet.
"""


_HEAD = ("| | measured | limit | within |", "|---|---|---|---|")


def render(records: Path = RECORDS) -> str:
    """The whole page."""
    return "\n".join([_INTRODUCTION, *(_section(file) for file in sorted(records.glob("*.json")))])


def _section(file: Path) -> str:
    record = json.loads(file.read_text(encoding="utf-8"))
    machine = record["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in sorted(machine["packages"].items()))
    rows = [_row(row) for row in record["rows"]]
    return "\n".join(
        [
            f"## {file.stem}\n",
            f"What: {record['what']}. Record: `benchmarks/results/{file.name}`.\n",
            *([*_HEAD, *rows, ""] if rows else []),
            f"{record['date']}, {machine['cpu']}, {machine['threads']} threads, "
            f"{machine['memory_bytes'] / 1e9:.0f} GB of memory, Linux {machine['kernel']}; "
            f"Python {machine['python']}, {packages}.\n",
        ]
    )


def _row(row: dict[str, Any]) -> str:
    name = row["name"].removesuffix(", bytes")
    return (
        f"| {name} | {_value(row, 'value')} | {_value(row, 'limit')} | {'yes' if row['pass'] else '**no**'} |"
    )


def _value(row: dict[str, Any], key: str) -> str:
    if row["name"].endswith(", bytes"):
        return f"{row[key] / 1e9:.2f} GB"
    return f"{row[key]:.4g}"


def main() -> None:
    """Prints the page, or writes it."""
    page = render()
    if "--write" in sys.argv[1:]:
        PAGE.write_text(page, encoding="utf-8", newline="\n")
    else:
        print(page, end="")


if __name__ == "__main__":
    main()
