"""Tables of measured values against their targets, as every check and benchmark prints them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Check:
    """One measured value.

    Attributes
    ----------
    what
        What was measured.
    value
        The number; NaN when it could not be measured.
    target
        The target in words, e.g. ``<= 0.6 s``; empty for a value that is only reported.
    ok
        Whether it holds; True for values without target.
    """

    what: str
    value: float
    target: str = ""
    ok: bool = True


def at_most(what: str, value: float, limit: float, unit: str = "") -> Check:
    """A value that must not exceed `limit`; NaN misses it."""
    return Check(what, value, f"<= {limit:g} {unit}".rstrip(), bool(value <= limit))


def at_least(what: str, value: float, limit: float, unit: str = "") -> Check:
    """A value that must reach `limit`; NaN misses it."""
    return Check(what, value, f">= {limit:g} {unit}".rstrip(), bool(value >= limit))


def within(what: str, value: float, centre: float, tolerance: float, unit: str = "") -> Check:
    """A value that must lie within `tolerance` of `centre`; NaN misses it."""
    target = f"{centre:g} +- {tolerance:g} {unit}".rstrip()
    return Check(what, value, target, bool(abs(value - centre) <= tolerance))


def print_table(title: str, checks: Sequence[Check]) -> bool:
    """Print value against target; return whether all targets are met."""
    print(f"\n{title}")
    width = max([len(check.what) for check in checks], default=10)
    for check in checks:
        state = "" if not check.target else ("ok" if check.ok else "MISSED")
        print(f"  {check.what:<{width}}  {check.value:>12.5g}  {check.target:<22} {state}")
    return all(check.ok for check in checks)


def write_json(path: Path, title: str, checks: Sequence[Check]) -> None:
    """Write the table as JSON; a value that is not finite becomes null."""
    rows = [asdict(check) for check in checks]
    for row in rows:
        if not math.isfinite(row["value"]):
            row["value"] = None
    path.write_text(json.dumps({"title": title, "checks": rows}, indent=1) + "\n")
