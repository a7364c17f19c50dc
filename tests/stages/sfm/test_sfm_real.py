"""Measurement of real frames: a field that SExtractor measured, too, and crowded epochs.

Skipped where the frames are absent.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))

from _real_photometry import beside_sextractor, crowded_epochs

from mpipipe.quality.report import Check


def three_epochs(realdata: Path) -> list[Check]:
    return crowded_epochs(realdata, 3)


@pytest.mark.parametrize(
    ("folder", "compare"), [("sep-ntt", beside_sextractor), ("saao-series", three_epochs)]
)
def test_every_target_is_met(
    realdata: Path, folder: str, compare: Callable[[Path], list[Check]]
) -> None:
    if not (realdata / folder).is_dir():
        pytest.skip(f"{folder} is not among the real frames")
    checks = compare(realdata)
    assert sum(bool(check.target) for check in checks) >= 4
    assert not [check for check in checks if not check.ok]
