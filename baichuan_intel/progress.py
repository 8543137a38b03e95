"""Progress bars on stderr, with rates and time left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Bars:
    """Bars of one job; one is advanced from any thread by bytes."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None

    def start(self, description: str, total: int | None) -> None:
        """Begins a new bar of ``total`` bytes (None: unknown) and completes the one before."""
        self.finish()
        self._task = self._progress.add_task(description, total=total)

    def advance(self, count: int) -> None:
        """``count`` more bytes are done."""
        if self._task is not None:
            self._progress.advance(self._task, count)

    def finish(self) -> None:
        """Completes the bar that is running."""
        if self._task is None:
            return
        task = self._progress.tasks[self._task]
        self._progress.update(self._task, total=task.total or task.completed or 1)
        self._progress.update(self._task, completed=self._progress.tasks[self._task].total)
        self._progress.stop_task(self._task)


@contextmanager
def bars(*, enabled: bool = True) -> Iterator[Bars]:
    """Bars on stderr for the length of the block; silent when not ``enabled`` or not a terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description:<22}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    shown = enabled and (console.is_terminal or console.is_jupyter)
    with Progress(*columns, console=console, disable=not shown) as progress:
        yield Bars(progress)
