"""Frames of a made-up sky, as image characterization would hand them on."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mpipipe.data.icsrc import ICSRC
from mpipipe.data.tan_sip import TanSip
from mpipipe.stages.ic.wcs_determination import WcsDeterminationConfig
from mpipipe.stages.selfref.frame import Frame, frame_of

SHAPE = (1000, 1000)
SCALE = 1.0
"""Arcsec per pixel."""
NOISE = 0.02
"""Of bright stars' centroids, pixels an axis."""
OPTIONS = WcsDeterminationConfig()


def wcs_at(ra: float, dec: float, turn: float = 0.0, scale: float = SCALE) -> TanSip:
    """A TAN solution about the CCD's centre, rotated by `turn` degrees."""
    c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    cd = np.array([[-c, s], [s, c]]) * scale / 3600.0
    return TanSip.make((ra, dec), (499.5, 499.5), cd, None, SHAPE)


@dataclass
class Sky:
    """Stars around a place; magnitudes in two bands."""

    ra0: float
    dec0: float
    seed: int = 1
    n_stars: int = 400
    width: float = 0.5
    ra: np.ndarray = field(init=False)
    dec: np.ndarray = field(init=False)
    magnitude: dict[str, np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.dec = self.dec0 + self.rng.uniform(-0.5, 0.5, self.n_stars) * self.width
        across = self.rng.uniform(-0.5, 0.5, self.n_stars) * self.width
        self.ra = (self.ra0 + across / np.cos(np.radians(self.dec))) % 360.0
        r = self.rng.uniform(14.0, 19.0, self.n_stars)
        self.magnitude = {"r": r, "g": r + self.rng.uniform(0.2, 1.2, self.n_stars)}

    def frame(
        self,
        visit: int,
        *,
        at: tuple[float, float] = (0.0, 0.0),
        turn: float = 0.0,
        band: str = "r",
        ccd: str = "ccd0",
        zero_point: float = 28.0,
        has_header: bool = True,
        pointing_error: float = 20.0,
        n_false: int = 8,
        hot: tuple[tuple[float, float], ...] = (),
        flux_noise: float = 0.002,
    ) -> Frame:
        """One exposure, its centre `at` arcsec from the field's; NaN `pointing_error`: unknown."""
        rng = np.random.default_rng([self.seed, visit, ord(ccd[-1])])
        dec = self.dec0 + at[1] / 3600.0
        ra = (self.ra0 + at[0] / 3600.0 / np.cos(np.radians(dec))) % 360.0
        true = wcs_at(ra, dec, turn)
        x, y = true.sky_to_pixel(self.ra, self.dec)
        with np.errstate(invalid="ignore"):
            seen = (x > 5) & (y > 5) & (x < 994) & (y < 994) & (rng.random(len(x)) > 0.05)
        flux = 10 ** (-0.4 * (self.magnitude[band][seen] - zero_point))
        flux = flux * (1.0 + flux_noise * rng.standard_normal(len(flux)))
        x = x[seen] + NOISE * rng.standard_normal(len(flux))
        y = y[seen] + NOISE * rng.standard_normal(len(flux))
        more = rng.uniform(10, 990, (n_false, 2))
        more = np.concatenate([more, np.array(hot).reshape(-1, 2)])
        rows = ICSRC.empty(len(flux) + len(more))
        rows["id"] = np.arange(len(rows))
        rows["x"], rows["y"] = np.append(x, more[:, 0]), np.append(y, more[:, 1])
        rows["xErr"] = rows["yErr"] = NOISE
        rows["psfInstFlux"] = np.append(flux, rng.choice(flux, len(more)))
        rows["psfInstFluxErr"] = flux_noise * rows["psfInstFlux"]
        rows["snr"] = 200.0
        rows["ixx"] = rows["iyy"] = 3.0
        off = rng.uniform(-1, 1, 2) * 3.0 / 3600.0
        header = wcs_at(ra + off[0] / np.cos(np.radians(dec)), dec + off[1], turn + 0.05)
        error = rng.uniform(-1, 1, 2) * pointing_error / 3600.0
        return frame_of(
            rows,
            visit=visit,
            ccd=ccd,
            band=band,
            mjd=60000.0 + visit / 1000.0,
            seconds=30.0,
            shape=SHAPE,
            pixel_scale=SCALE,
            header=header if has_header else None,
            pointing=(ra + error[0], dec + error[1]),
            options=OPTIONS,
        )

    def matched(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Star of each row (nearest within 4 arcsec, else -1), arcsec off, row by row."""
        cos_dec = np.cos(np.radians(self.dec0))
        east = ((rows["ra"][:, None] - self.ra + 180.0) % 360.0 - 180.0) * cos_dec * 3600.0
        north = (rows["dec"][:, None] - self.dec) * 3600.0
        apart = np.hypot(east, north)
        star = apart.argmin(axis=1)
        index = np.arange(len(rows))
        found = apart[index, star] < 4.0
        return np.where(found, star, -1), east[index, star], north[index, star], found
