"""FITS header cards, parsed when they are asked for.

Scanning a night means reading many headers and using ten cards of each, so a `Header` indexes
the keywords in one pass and parses only what is looked up. It is lenient, as raw headers are
not always standard: a value that can not be parsed is kept as its text. FITS standard 4.0,
section 4 (Pence et al. 2010, A&A 524, A42).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

CARD = 80
BLOCK = 2880

Value = bool | int | float | str | None
"""What a card can hold; None is an undefined value."""

_INTEGER = re.compile(r"[+-]?\d+\Z")
_REAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([EeDd][+-]?\d+)?\Z")
_COMMENTARY = frozenset({"COMMENT", "HISTORY", "", "CONTINUE", "END"})
_MAX_DIGITS = 40
"""Longer runs of digits are no number anybody meant; int() of thousands is slow."""


def parse_value(text: str) -> tuple[Value, str]:
    """Value and comment from the part of a card behind ``=``.

    Parameters
    ----------
    text
        Characters 11 to 80 of a card, or what follows ``=`` in a HIERARCH card.

    Returns
    -------
    value, comment
        The value as bool, int, float, str or None (undefined); text that is no valid FITS value
        is returned as a string.
    """
    stripped = text.lstrip()
    if stripped.startswith("'"):
        return _parse_string(stripped)
    raw, _, comment = stripped.partition("/")
    raw = raw.strip()
    return _parse_number(raw), comment.strip()


def _parse_string(text: str) -> tuple[str, str]:
    position = 1
    while True:
        quote = text.find("'", position)
        if quote < 0:
            # The closing quote is missing: everything up to the end is the value.
            return text[1:].rstrip().replace("''", "'"), ""
        if text[quote + 1 : quote + 2] != "'":
            break
        position = quote + 2
    value = text[1:quote].replace("''", "'").rstrip()
    return value, text[quote + 1 :].partition("/")[2].strip()


def _parse_number(raw: str) -> Value:
    if raw == "":
        return None
    if raw in ("T", "F"):
        return raw == "T"
    if len(raw) <= _MAX_DIGITS:
        if _INTEGER.match(raw):
            return int(raw)
        if _REAL.match(raw):
            return float(raw.upper().replace("D", "E"))
    return raw


class Header(Mapping[str, Value]):
    """A header as a mapping from keyword to value; of repeated keywords the first counts.

    Parameters
    ----------
    block
        The header's bytes, up to or beyond its END card.
    """

    def __init__(self, block: bytes) -> None:
        text = block.decode("latin-1")
        self._cards: dict[str, str] = {}
        self._long: dict[str, list[str]] = {}
        last = ""
        for start in range(0, len(text), CARD):
            key = text[start : start + 8].rstrip()
            if key == "END":
                break
            if key == "CONTINUE":
                self._long.setdefault(last, []).append(text[start + 8 : start + CARD])
                continue
            if key == "HIERARCH":
                name, equals, _ = text[start + 8 : start + CARD].partition("=")
                key = name.strip().upper() if equals else ""
            last = key
            self._cards.setdefault(key, text[start : start + CARD])
        self._parsed: dict[str, tuple[Value, str]] = {}

    def __getitem__(self, key: str) -> Value:
        return self._parse(key)[0]

    def __iter__(self) -> Iterator[str]:
        return (key for key, card in self._cards.items() if _has_value(key, card))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, key: object) -> bool:
        card = self._cards.get(key) if isinstance(key, str) else None
        return card is not None and isinstance(key, str) and _has_value(key, card)

    def comment(self, key: str) -> str:
        """The comment of a card; KeyError if there is no such card."""
        return self._parse(key)[1]

    def cards(self) -> Iterator[tuple[str, Value, str]]:
        """(keyword, value, comment) of every card that has a value, in order."""
        return ((key, *self._parse(key)) for key in self)

    def _parse(self, key: str) -> tuple[Value, str]:
        known = self._parsed.get(key)
        if known is None:
            if key not in self:
                raise KeyError(key)
            card = self._cards[key]
            start = card.index("=") + 1 if card.startswith("HIERARCH") else 9
            known = self._continued(key, *parse_value(card[start:]))
            self._parsed[key] = known
        return known

    def _continued(self, key: str, value: Value, comment: str) -> tuple[Value, str]:
        for part in self._long.get(key, ()):
            if not isinstance(value, str) or not value.endswith("&"):
                break
            more, more_comment = parse_value(part)
            value = value[:-1] + str(more if more is not None else "")
            comment = f"{comment} {more_comment}".strip()
        return value, comment


def _has_value(key: str, card: str) -> bool:
    return key not in _COMMENTARY and (card[8:9] == "=" or card.startswith("HIERARCH"))


def end_of_header(block: bytes | bytearray, searched: int = 0) -> int:
    """Length in bytes of the header at the start of `block`, padding included; -1 without END.

    Parameters
    ----------
    searched
        Bytes at the start, whole cards, that are known to hold no END.
    """
    position = searched
    while True:
        position = block.find(b"END     ", position)
        if position < 0:
            return -1
        if position % CARD == 0:
            return -(-(position + CARD) // BLOCK) * BLOCK
        position += 1
