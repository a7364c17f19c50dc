"""Stamps of sources on their own: what is copied, added, hidden and mirrored."""

from __future__ import annotations

import numpy as np
import pytest

from mpipipe.data.guess_psf import GuessPsf
from mpipipe.stages.measurement_planes import MeasurementPlanes
from mpipipe.stages.psf_models import PsfModels
from mpipipe.stages.seeing import default_seeing
from mpipipe.stages.sfm.halos import Halos
from mpipipe.stages.sfm.source_stamps import Ground, Piece, extended_discs, pieces
from mpipipe.stages.sfm.src_table import SRC

SHAPE = (150, 170)
FWHM = 3.5
PSF = GuessPsf(2.2, 1.9, 0.1, 25, 10.5, SHAPE)


def planes() -> MeasurementPlanes:
    return MeasurementPlanes(
        np.zeros(SHAPE, bool), np.full(SHAPE, 25.0, np.float32), default_seeing(FWHM)
    )


def sources(*places: tuple[float, float, float]) -> np.ndarray:
    src = SRC.empty(len(places))
    src["x"], src["y"], src["psfInstFlux"] = np.array(places).T
    src["psfInstFluxErr"], src["psfChi2"] = 10.0, 1.0
    return src


def ground(src: np.ndarray, unknown: np.ndarray | None = None) -> Ground:
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    residual = (x + 1000.0 * y).astype(np.float32)
    given = np.zeros(SHAPE, bool) if unknown is None else unknown
    none = np.empty((0, 1))
    halos = Halos(np.full(len(src), -1), np.ones(1), none, np.empty(0, np.int64))
    return Ground(
        residual,
        planes(),
        given,
        PsfModels(PSF, len(src)),
        extended_discs(planes(), FWHM, src),
        halos,
    )


def test_a_stamp_is_the_residual_with_the_own_model() -> None:
    src = sources((60.3, 70.8, 500.0))
    on = ground(src)
    stamps = Piece(on, src, 0).stamps(np.array([0]), 20)
    expected = on.residual[51:92, 40:81].astype(float)
    expected[8:33, 8:33] += 500 * PSF.image(60.3, 70.8)
    np.testing.assert_allclose(stamps.light[0], expected, rtol=1e-5)
    assert stamps.known.all() and (stamps.variance == 25).all()
    assert stamps.x[0] == pytest.approx(0.3) and stamps.y[0] == pytest.approx(-0.2)


def test_what_is_missing_is_mirrored_or_not_known() -> None:
    src = sources((60.0, 70.0, 0.0), (3.0, 75.0, 0.0))
    unknown = np.zeros(SHAPE, bool)
    unknown[74, 62] = unknown[70, 60] = True
    on = ground(src, unknown)
    stamps = Piece(on, src, 0).stamps(np.arange(2), 10)
    # The middle is its own partner.
    assert stamps.known[0].sum() == 21 * 21 - 1 and stamps.light[0, 10, 10] == 0
    assert stamps.light[0, 14, 12] == on.residual[66, 58]
    assert stamps.variance[0, 14, 12] == 50
    # Columns beyond the edge have partners, but for those whose partners are ... on the image.
    assert stamps.known[1].all()
    assert stamps.light[1, 5, 2] == on.residual[80, 11]


def test_a_disc_about_an_extended_neighbour_is_hidden_for_others_only() -> None:
    src = sources((60.0, 70.0, 500.0), (72.0, 70.0, 4000.0))
    src["psfChi2"][1] = 3.0
    on = ground(src)
    assert on.discs.row.tolist() == [1]
    stamps = Piece(on, src, 0).stamps(np.arange(2), 14)
    # Towards the neighbour pixels are those of the other side.
    assert (stamps.variance[0, 14, 22:] == 50).all() and stamps.variance[0, 14, 14] == 25
    assert (stamps.variance[1] == 25).all()


def test_sources_without_a_place_have_empty_stamps() -> None:
    src = sources((np.nan, 70.0, 500.0), (60.0, 70.0, np.nan))
    stamps = Piece(ground(src), src, 0).common
    assert not stamps.known[0].any() and not stamps.light[0].any()
    assert np.isfinite(stamps.light).all() and stamps.known[1].all()


def test_pieces_hold_all_rows_once_and_are_views() -> None:
    src = sources(*[(60.0, 70.0, float(k)) for k in range(300)])
    seen = 0
    for rows, piece in pieces(ground(src), src):
        assert piece.first == seen and len(piece.x) == len(rows)
        seen += len(rows)
        rows["snr"] = 7
    assert seen == 300 and (src["snr"] == 7).all()


def test_stamps_grow_only_for_those_who_want_more() -> None:
    src = sources((60.0, 70.0, 1.0), (80.0, 70.0, 1.0))
    wanted = [np.array([False, True]), np.array([False, False])]
    sizes = [
        (rows.tolist(), stamps.light.shape[1])
        for rows, stamps in Piece(ground(src), src, 0).growing(lambda: wanted.pop(0))
    ]
    assert [rows for rows, _ in sizes] == [[0, 1], [1]]
    assert sizes[1][1] > sizes[0][1]


def test_no_sources_no_discs() -> None:
    src = sources((60.0, 70.0, 1.0))[:0]
    on = ground(src)
    assert len(on.discs.row) == 0 and on.discs.first[-1] == 0
    assert list(pieces(on, src)) == []
