"""Text laid out in columns of a terminal: safe to print, cut, wrapped and aligned by what it takes there."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from typing import Final

_ELLIPSIS: Final = "..."
_JOINERS: Final = "\u200c\u200d"  # invisible, and part of Persian words and of emoji
# Format characters turn the direction of a line or hide in it, surrogates cannot be encoded.
_UNSAFE_CATEGORIES: Final = frozenset({"Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp"})
_MARKS_KEPT: Final = 4  # on one character; more only bury the lines around it


def printable(text: str) -> str:
    """A user's text on one line: control, format and unpaired characters as escapes, stacks of marks shortened."""
    out = []
    marks = 0
    for char in text:
        marks = marks + 1 if _takes_no_column(char) else 0
        if marks > _MARKS_KEPT:
            continue
        if unicodedata.category(char) in _UNSAFE_CATEGORIES and char not in _JOINERS:
            char = char.encode("unicode_escape", "surrogatepass").decode("ascii")
        out.append(char)
    return "".join(out)


def columns_of(text: str) -> int:
    """How many columns of a terminal printable text takes."""
    return sum(map(_columns_of_char, text))


@lru_cache(maxsize=4_096)  # a screen that is drawn each second has the same few
def _columns_of_char(char: str) -> int:
    if char.isascii():
        return 1
    if _takes_no_column(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _takes_no_column(char: str) -> bool:
    return char in _JOINERS or unicodedata.category(char) in ("Mn", "Me")


def cut(text: str, width: int) -> str:
    """Text within this many columns; what was cut off leaves "..."."""
    if columns_of(text) <= width:
        return text
    head, _ = _split(text, max(0, width - len(_ELLIPSIS)))
    return head + _ELLIPSIS[:width]


def wrap(text: str, width: int) -> list[str]:
    """Text in lines of this many columns, broken at spaces, and within a word only where it alone is longer."""
    width = max(width, 2)  # what the widest character takes
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if columns_of(joined) <= width:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        head, rest = _split(word, width)
        while rest:
            lines[-1] = head
            lines.append("")
            head, rest = _split(rest, width)
        lines[-1] = head
    return [line for line in lines if line]


def _split(text: str, width: int) -> tuple[str, str]:
    """The part of a text that fits, and the rest."""
    used = 0
    for position, char in enumerate(text):
        used += _columns_of_char(char)
        if used > width:
            return text[:position], text[position:]
    return text, ""


def table(
    rows: Sequence[Sequence[str]], *, width: int, flexible: Collection[int] = (), right: Collection[int] = ()
) -> list[str]:
    """Rows of printable texts in aligned columns, two spaces apart, or one where room is short.

    Args:
        rows: equally many cells each.
        width: of the whole table, in columns of the terminal.
        flexible: the positions of the columns that are cut where the rest leaves them too little.
        right: the positions of the columns that are aligned to the right.
    """
    if not rows:
        return []
    widths = [max(map(columns_of, column)) for column in zip(*rows, strict=True)]
    gap = "  " if sum(widths) + 2 * (len(widths) - 1) <= width else " "
    spare = width - len(gap) * (len(widths) - 1) - sum(w for i, w in enumerate(widths) if i not in flexible)
    # The narrowest first: what one column does not need, the wider ones share.
    narrow_first = sorted(flexible, key=lambda i: widths[i])
    for done, i in enumerate(narrow_first):
        widths[i] = min(widths[i], max(len(_ELLIPSIS), spare // (len(narrow_first) - done)))
        spare -= widths[i]
    return [gap.join(_cells(row, widths, right)).rstrip() for row in rows]


def _cells(row: Sequence[str], widths: Sequence[int], right: Collection[int]) -> Iterator[str]:
    for i, (cell, width) in enumerate(zip(row, widths, strict=True)):
        cell = cut(cell, width)
        padding = " " * (width - columns_of(cell))
        yield padding + cell if i in right else cell + padding
