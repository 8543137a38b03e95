"""Predicates over values that come from files and callers, and how a message shows one."""

from __future__ import annotations


def is_whole(value: object, low: int, high: int) -> bool:
    """An int from low to high; True and False are not ints here."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def is_number(value: object, low: float, high: float) -> bool:
    """An int or float from low to high, both finite; NaN never is."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def shown(value: object) -> str:
    """``repr(value)``, on one line and at most 80 characters: it may be hostile."""
    try:
        return f"{value!r:.80}"
    except (ValueError, RecursionError):  # an int of thousands of digits; lists in lists in lists
        return f"an oversized {type(value).__name__}"
