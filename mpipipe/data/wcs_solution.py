"""The WCS that was found for one exposure on reference stars, and how good it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mpipipe.data.refraction import Refraction

if TYPE_CHECKING:
    from mpipipe.data.tan_sip import TanSip

Kind = Literal["sip", "affine", "shift"]


@dataclass(frozen=True, eq=False)
class WcsSolution:
    """A WCS fitted to reference stars, with its accuracy.

    Attributes
    ----------
    sip
        The solution.
    kind
        ``sip`` (with distortion), ``affine``, ``shift`` (the header's WCS, moved).
    order
        Degree of the fitted polynomials: 0 for a shift, 1 affine.
    n_matched, n_used
        Sources matched with reference stars, and those of them that the fit used.
    rms_x, rms_y
        Scatter of the residuals of the stars used, pixels, each axis.
    rms_ra, rms_dec
        The same along ra (with cos(dec)) and dec, mas.
    expected_rms
        What `rms_ra` and `rms_dec` should be by the quoted errors of centroids and reference, mas.
    scatter
        What had to be added to those errors to explain the residuals, mas an axis.
    error, max_error
        Standard error of a position by this WCS, mas an axis: rms over the CCD, and its largest.
    cv_rms
        Scatter of the residuals of stars held out of the fit, mas an axis; NaN if too few.
    header_offset
        How far the header's WCS (or pointing) was off at the CCD's centre, arcsec.
    log_chance
        log10 of the probability that unrelated catalogues agree as well.
    is_relative
        The reference was made from the run's own frames: positions are relative to them.
    reference
        Name of the reference catalogue.
    refraction
        How sources are displaced by their colours; `sip` is that of the pivot colour. None where
        the stars do not show any: then `sip` is that of their mean colour.
    """

    sip: TanSip
    kind: Kind
    order: int
    n_matched: int
    n_used: int
    rms_x: float
    rms_y: float
    rms_ra: float
    rms_dec: float
    expected_rms: float
    scatter: float
    error: float
    max_error: float
    cv_rms: float
    header_offset: float
    log_chance: float
    is_relative: bool
    reference: str
    refraction: Refraction | None = None
