"""What a newcomer waits for: import, --help, and the README's two commands on a fresh clone. Linux only.

    python -m benchmarks.newcomer

The clone is of the last commit, in a temporary folder; pip may use its cache, as on a machine that has
seen the packages before. The record is results/newcomer.json.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import row, write_record

ROOT = Path(__file__).parent.parent
RESULT = Path(__file__).parent / "results" / "newcomer.json"
REPEATS = 9
IMPORT_LIMIT_S, HELP_LIMIT_S, DEMO_LIMIT_S, TEST_LIMIT_S = 0.3, 0.6, 180, 480


def seconds(command: list[str], folder: Path = ROOT) -> float:
    """Wall time of a command that must succeed."""
    # A venv of the caller's must not reach the clone's make.
    environment = {key: value for key, value in os.environ.items() if key != "VIRTUAL_ENV"}
    started = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return time.perf_counter() - started


def samples(command: list[str]) -> list[float]:
    """Of fresh processes; the first run, which fills the page cache, does not count."""
    return [seconds(command) for _ in range(REPEATS + 1)][1:]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what a newcomer waits for.")
    parser.add_argument("--out", type=Path, default=RESULT, help="where the record goes")
    args = parser.parse_args()
    raw: dict[str, Any] = {
        "import": samples([sys.executable, "-c", "import baichuan_intel"]),
        "help": samples([sys.executable, "-m", "baichuan_intel", "--help"]),
    }
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        seconds(["git", "clone", "--quiet", str(ROOT), str(clone)])
        raw["make demo"] = [seconds(["make", "demo"], clone)]
        raw["make test"] = [seconds(["make", "test"], clone)]
    limits = {
        "import": IMPORT_LIMIT_S,
        "help": HELP_LIMIT_S,
        "make demo": DEMO_LIMIT_S,
        "make test": TEST_LIMIT_S,
    }
    rows = [row(f"{name}, seconds", statistics.median(raw[name]), limit) for name, limit in limits.items()]
    what = "import and --help in fresh processes (Python's own start included); make on a fresh clone"
    sys.exit(0 if write_record(args.out, {"what": what, "rows": rows, "samples": raw}) else 1)


if __name__ == "__main__":
    main()
