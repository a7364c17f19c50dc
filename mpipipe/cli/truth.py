"""The truth of a simulated survey, read for those who judge a run by it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mpipipe.data.errors import BadDataError, ConfigError
from mpipipe.quality.scorecard.truth import CcdTruth, TruthOf


def truth_in(folder: Path) -> TruthOf:
    """What gives the truth of a visit and CCD out of a survey's folder, or of its truth folder.

    Raises
    ------
    ConfigError
        If there is no truth.
    """
    for candidate in (folder, folder / "truth"):
        if (candidate / "science").is_dir():
            return lambda visit, ccd: _read(candidate / "science" / f"{visit}_{ccd}.fits")
    raise ConfigError(
        "holds no truth of a simulated survey",
        file=folder,
        key="--truth",
        way_out="give the folder that mpipipe simulate made",
    )


def _read(path: Path) -> CcdTruth | None:
    from astropy.io import fits

    if not path.exists():
        return None
    try:
        with fits.open(path, memmap=False) as hdus:
            return CcdTruth(np.array(hdus["SOURCES"].data), float(hdus[0].header["ZEROPNT"]))
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise BadDataError(f"is no truth of a CCD-visit: {error}", file=path) from error
