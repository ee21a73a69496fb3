"""Format numbers and names for people."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_HALF_UP, Decimal

from rich.console import Console

MAX_NAMES = 8  # in one sentence
SEPARATORS = "-_./: "  # between the words of a name


@functools.cache
def make_console() -> Console:
    """Return the console of this process, wide if it is not a terminal, so that rows in logs are not broken."""
    return Console(width=None if sys.stdout.isatty() else 200)


def print_problems(problems: Sequence[str]) -> int:
    """Print a line of standard error for each file of a storage that cannot be used. Return the exit code."""
    for problem in problems:
        print(f"error: {plain(problem)}", file=sys.stderr)
    return 1 if problems else 0


def no_rounds(uri: str) -> str:
    """Return the line about a storage without finished rounds."""
    return f"no finished round in {uri}"


def plain(text: object) -> str:
    """Return `text` as one line without control characters: names and reasons from storage are not trusted."""
    line = str(text)
    return line if line.isprintable() else "".join(char if char.isprintable() else " " for char in line)


def compression(ratio: float) -> str:
    """Format as `4.8x`, `215x`; a tie is rounded up, as in the page's script: 1.25 is `1.3x`."""
    exact = Decimal(ratio)
    digits = Decimal("0.1") if exact < Decimal("99.95") else Decimal(1)
    return f"{exact.quantize(digits, ROUND_HALF_UP)}x"


def percent(fraction: float) -> str:
    """Format 0.9712 as `97.12`."""
    return f"{100 * fraction:.2f}"


def duration(seconds: float) -> str:
    """Format as `5.2 s`, `3 m 07 s`, `2 h 05 m`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} m {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} m"


def milliseconds(seconds: float) -> str:
    """Format as `0.018 ms`, `4.21 ms`, `137 ms`."""
    value = 1000 * seconds
    return f"{value:.{3 if value < 0.0995 else 2 if value < 9.995 else 1 if value < 99.95 else 0}f} ms"


def size(count: int) -> str:
    """Format as `804 B`, `76.2 kB`, `94.1 MB`, `1.20 GB`: powers of 1000."""
    if count < 1000:
        return f"{count} B"
    value, unit = count / 1000, "kB"
    for larger in ("MB", "GB"):
        if value >= 999.5:
            value, unit = value / 1000, larger
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {unit}"


def shorten(text: str, max_length: int) -> str:
    """Shorten `text` to one line of `max_length` characters by cutting the middle, because names differ at the ends."""
    line = plain(text)
    if len(line) <= max_length:
        return line
    tail = (max_length - 1) // 2
    return f"{line[: max_length - 1 - tail]}…{line[len(line) - tail :]}"


def distinct_names(names: Iterable[str], max_length: int) -> dict[str, str]:
    """Return for each of `names` a text of `max_length` characters by which a reader can tell them apart.

    If a name is longer, the beginning and the end that all names share are dropped, up to a separator. A name that is
    still longer loses its beginning, because names differ at their ends more often.
    """
    lines = {name: plain(name) for name in names}
    if max(map(len, lines.values()), default=0) > max_length and len(set(lines.values())) > 1:
        start = _shared(lines.values())
        end = _shared(line[start:][::-1] for line in lines.values())
        lines = {name: line[start : len(line) - end] for name, line in lines.items()}
    cut = {name: line if len(line) <= max_length else f"…{line[1 - max_length :]}" for name, line in lines.items()}
    if len(set(cut.values())) < len(set(lines.values())):
        return {name: shorten(line, max_length) for name, line in lines.items()}
    return cut


def _shared(lines: Iterable[str]) -> int:
    """Return how many characters all `lines` begin with, up to the last separator among them."""
    first, *_, last = sorted(lines)
    pairs = enumerate(zip(first, last, strict=False))
    same = next((place for place, (one, other) in pairs if one != other), min(len(first), len(last)))
    return max(first[:same].rfind(separator) for separator in SEPARATORS) + 1


def name_largest(sizes: Mapping[str, int]) -> str:
    """List the names of `sizes`, largest first, with their sizes: `fc (4,096), norm (64) and 3 more`."""
    names = sorted(sizes, key=lambda name: -sizes[name])
    named = ", ".join(f"{plain(name)} ({sizes[name]:,})" for name in names[:MAX_NAMES])
    return named + (f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else "")


def points(fraction: float) -> str:
    """Format a difference of accuracies in per cent points: `+0.42`, `-1.30`, `0.00`."""
    value = f"{100 * fraction:+.2f}"
    return value[1:] if float(value) == 0 else value
