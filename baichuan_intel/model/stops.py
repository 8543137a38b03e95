"""Stop strings over a stream of text pieces."""

from __future__ import annotations

from collections.abc import Iterable

from baichuan_intel.errors import PromptError
from baichuan_intel.model.checks import shown

_MAX_STOPS = 64
_MAX_LENGTH = 1024


class StopStrings:
    """Cuts a stream of text at the first stop string.

    The first is the one that is complete earliest; of several that end together, the longest. So the
    result does not depend on how the text is divided into pieces. Text that may yet turn out to be the
    beginning of a stop string is held back.

    Raises:
        PromptError: not text, empty, or too many or too long.
    """

    def __init__(self, stops: str | Iterable[str] = ()) -> None:
        if not isinstance(stops, Iterable):
            raise PromptError(f"stop is a {type(stops).__name__}, expected a text or a list of texts")
        self._stops = (stops,) if isinstance(stops, str) else tuple(stops)
        if len(self._stops) > _MAX_STOPS:
            raise PromptError(f"{len(self._stops)} stop strings, expected at most {_MAX_STOPS}")
        for stop in self._stops:
            if not isinstance(stop, str) or not 1 <= len(stop) <= _MAX_LENGTH:
                raise PromptError(
                    f"a stop string is {shown(stop)}, expected text of 1 to {_MAX_LENGTH} characters"
                )
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""
        self._hit = False

    def push(self, text: str) -> tuple[str, bool]:
        """Takes the next piece; returns what may be shown now, and whether a stop string was met.

        After a stop string was met, nothing is shown any more.
        """
        if self._hit:
            return "", True
        text = self._held + text
        ends = [text.index(stop) + len(stop) for stop in self._stops if stop in text]
        if ends:
            text = text[: min(ends)]
            start = min(len(text) - len(stop) for stop in self._stops if text.endswith(stop))
            self._held, self._hit = "", True
            return text[:start], True
        cut = len(text) - self._tail(text)
        self._held = text[cut:]
        return text[:cut], False

    def flush(self) -> str:
        """The text held back, when no more will come."""
        held, self._held = self._held, ""
        return held

    def _tail(self, text: str) -> int:
        """Length of the longest end of ``text`` that begins a stop string."""
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0
