"""Snaps are summed over clean pixels, with a variance that knows what is common to all snaps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from mpipipe.data.background import Background
from mpipipe.data.errors import BadDataError, MissingInputError
from mpipipe.data.exposure import Exposure
from mpipipe.data.mask import VALUE, is_set
from mpipipe.stages import cs
from mpipipe.stages.cs.cr_split_combine import combine
from mpipipe.stages.stage import Clipboard, StageConfig, check_chain

RunCs = Callable[..., Clipboard]
Maker = Callable[..., Exposure]


def pair(flat: Maker, sigma: float | None = 3.0) -> list[Exposure]:
    snaps = [flat((40, 50), snap=k) for k in range(2)]
    for k, snap in enumerate(snaps):
        snap.variance[:] = 100 + 20 * k
        if sigma is not None:
            snap.master_sigma = np.full(snap.shape, sigma + k, np.float32)
    return snaps


def test_clean_pixels_add_and_masters_add_linearly(flat: Maker) -> None:
    snaps = pair(flat)
    calexp = combine(snaps)
    np.testing.assert_allclose(calexp.image, snaps[0].image + snaps[1].image, rtol=1e-6)
    np.testing.assert_allclose(calexp.variance, 100 + 120 + (3 + 4) ** 2)
    assert calexp.n_snaps == 2 and calexp.master_sigma is None
    assert calexp.info.exposure_time == 30 and calexp.info.files == ("snap-0", "snap-1")


def test_a_hit_pixel_is_twice_the_other_snap(flat: Maker) -> None:
    snaps = pair(flat)
    snaps[0].mask[5, 6] |= VALUE["CR"]
    snaps[0].image[5, 6] = 1e5
    calexp = combine(snaps)
    assert calexp.image[5, 6] == pytest.approx(2 * snaps[1].image[5, 6])
    assert calexp.variance[5, 6] == pytest.approx(4 * 120 + (2 * 4) ** 2)
    assert is_set(calexp.mask, "CR")[5, 6] and is_set(calexp.mask, "INTRP")[5, 6]
    assert not is_set(calexp.mask, "NO_DATA")[5, 6]


def test_unequal_times_are_scaled(flat: Maker) -> None:
    snaps = pair(flat, sigma=None)
    snaps[1].info = replace(snaps[1].info, exposure_time=45.0)
    snaps[0].mask[1, 1] |= VALUE["CR"]
    snaps[1].mask[2, 2] |= VALUE["CR"]
    calexp = combine(snaps)
    assert calexp.image[1, 1] == pytest.approx(snaps[1].image[1, 1] * 60 / 45)
    assert calexp.image[2, 2] == pytest.approx(snaps[0].image[2, 2] * 4, rel=1e-5)
    assert calexp.variance[2, 2] == pytest.approx(16 * 100, rel=1e-5)


def test_what_one_snap_lacks_the_other_gives(flat: Maker) -> None:
    snaps = pair(flat)
    snaps[0].mask[:, :25] |= VALUE["NO_DATA"]
    calexp = combine(snaps)
    assert not is_set(calexp.mask, "NO_DATA").any()
    assert is_set(calexp.mask, "INTRP")[:, :25].all()
    np.testing.assert_allclose(calexp.image[:, :25], 2 * snaps[1].image[:, :25], rtol=1e-6)


def test_a_pixel_hit_in_every_snap_has_no_data(run_cs: RunCs, flat: Maker) -> None:
    exposure = flat()
    exposure.image[100, 90:94] += 5000
    calexp = run_cs([exposure])["calexp"]
    hit = is_set(calexp.mask, "CR")
    assert hit[100, 90:94].all()
    assert is_set(calexp.mask, "NO_DATA")[hit].all() and is_set(calexp.mask, "INTRP")[hit].all()
    assert np.abs(calexp.image[hit]).max() < 150  # near the sky, which was subtracted


def test_variance_is_honest_on_sky_and_at_hits(run_cs: RunCs, flat: Maker) -> None:
    snaps = [flat((400, 420), snap=k) for k in range(2)]
    rng = np.random.default_rng(3)
    hits = rng.random(snaps[0].shape) < 0.01
    snaps[0].image[hits] += 3000
    calexp = run_cs(snaps)["calexp"]
    pull = calexp.image / np.sqrt(calexp.variance)
    clean = ~is_set(calexp.mask, "CR")
    assert pull[clean].std() == pytest.approx(1, abs=0.02)
    replaced = is_set(calexp.mask, "CR") & hits
    assert replaced.sum() > 0.98 * hits.sum()
    assert pull[replaced].std() == pytest.approx(1, abs=0.06)


def test_snaps_that_do_not_fit_are_bad_data(run_cs: RunCs, flat: Maker) -> None:
    with pytest.raises(BadDataError, match="snap 1 has"):
        run_cs([flat((40, 50)), flat((40, 60), snap=1)])
    other = flat((40, 50), snap=1)
    other.info = replace(other.info, visit=8)
    with pytest.raises(BadDataError, match="different visits"):
        run_cs([flat((40, 50)), other])
    with pytest.raises(MissingInputError):
        run_cs([])


def test_every_switch_works(run_cs: RunCs, flat: Maker) -> None:
    given = ("exposures", "pixel_scale", "sdqa", "warnings")
    assert {"calexp", "background", "snap_sources"} <= check_chain(cs.PIPELINE, given)
    snaps = [flat((200, 210), snap=k) for k in range(2)]
    snaps[0].image[50, 60:70] += 3000
    for step in cs.PIPELINE:
        if step.always:
            continue
        off: dict[str, StageConfig] = {step.name: step.config(enabled=False)}
        check_chain(cs.PIPELINE, given, off)
        result = run_cs(snaps, off)
        assert result["calexp"].n_snaps == 2
        assert isinstance(result["background"], Background)
        if step.name != "cs.reject":
            assert is_set(result["calexp"].mask, "CR")[50, 60:70].all()


def test_every_option_is_described() -> None:
    for step in cs.PIPELINE:
        for name, option in step.config.model_fields.items():
            assert option.description, f"{step.name}.{name}"
        assert step.summary
