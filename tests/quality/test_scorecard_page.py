"""The page in a browser: nothing is wider than a phone, and links show what they lead to."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
PHONE = 500
"""Pixels; headless Chromium makes no narrower window."""

pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason="no Chromium here: apt-get install chromium"),
    pytest.mark.timeout(170),
]

_MEASURE = """<script>
addEventListener("load", () => {
  const wide = [...document.querySelectorAll("body *")].filter(
    e => !e.closest(".scroll, nav, svg") && e.getBoundingClientRect().right > innerWidth + 1);
  const shown = document.querySelectorAll(".behind:target").length;
  const small = [...document.querySelectorAll("td, p, figcaption")].filter(
    e => e.textContent && parseFloat(getComputedStyle(e).fontSize) < 11);
  document.title = JSON.stringify([document.body.scrollWidth <= innerWidth, wide.length, shown,
    small.length, [...document.images].every(i => i.naturalWidth > 0)]);
});
</script>"""


@pytest.fixture
def made(make_run: Callable[..., Path], tmp_path: Path) -> Path:
    """A page with numbers that are missed, and what CCDs stand behind."""
    from mpipipe.quality.page.html import page
    from mpipipe.quality.scorecard.run_data import RunData
    from mpipipe.quality.scorecard.scoring import score
    from mpipipe.store.layout import RunLayout

    mags = 17.0 + 1e-3 * np.random.default_rng(1).normal(0, 12, (60, 6))
    visits = dict.fromkeys((20250602041014 + k for k in range(6)), "r")
    outcomes = {20250602041014: "partial"}
    root = make_run(mags, "a_run_with_a_rather_long_name", visits=visits, outcomes=outcomes)
    with RunData(RunLayout.at(root)) as data:
        path = tmp_path / "page.html"
        path.write_text(page(score(data)), encoding="utf-8")
    return path


def chromium(path: Path, *words: str, target: str = "") -> str:
    """What the browser prints."""
    command = [
        str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        f"--user-data-dir={path.parent / 'profile'}", *words, path.as_uri() + target,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=80, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("width", [PHONE, 1200])
def test_the_page_fits_and_links_show(made: Path, width: int) -> None:
    text = made.read_text(encoding="utf-8")
    made.write_text(text.replace("</body>", _MEASURE + "</body>"), encoding="utf-8")
    seen = chromium(made, f"--window-size={width},2000", "--dump-dom", target="#c-PA1.r")
    title = seen.split("<title>")[1].split("</title>")[0]
    assert title == "[true,0,1,0,true]"


def test_a_screenshot_is_no_blank_page(made: Path, tmp_path: Path) -> None:
    from matplotlib.image import imread

    shot = tmp_path / "shot.png"
    chromium(made, f"--window-size={PHONE},1600", f"--screenshot={shot}")
    pixels = imread(shot)[:, :, :3]
    assert pixels.shape[:2] == (1600, PHONE)
    ink = (pixels.mean(axis=2) < 0.5).mean(axis=1)
    # Text all the way down: no screen of it is empty.
    assert all(part.max() > 0 for part in np.split(ink, 8))
