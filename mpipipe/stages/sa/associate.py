"""Association of a table of sources in one call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mpipipe.stages.sa import PIPELINE
from mpipipe.stages.sa.output import Cell
from mpipipe.stages.stage import Clipboard, StageConfig, run_chain


@dataclass(frozen=True, eq=False)
class Association:
    """Tables of what is finished, in ascending order of id, and rows that are not.

    Attributes
    ----------
    source, object, bad_source, source_hist, bad_source_hist
        Structured arrays of the schemas in `mpipipe.data.association`.
    seam
        Rows of `SOURCE`: whole parts of groups that reach out of the cell.
    """

    source: np.ndarray
    object: np.ndarray
    bad_source: np.ndarray
    source_hist: np.ndarray
    bad_source_hist: np.ndarray
    seam: np.ndarray


def associate(
    rows: np.ndarray,
    own: np.ndarray,
    cell: Cell | None,
    bands: tuple[str, ...],
    fwhm: float,
    years: float,
    configs: Mapping[str, StageConfig] | None = None,
) -> Association:
    """Put sources into objects; see `mpipipe.stages.sa.source_clustering` on partitions.

    Parameters
    ----------
    rows
        Own and halo rows of `SOURCE`, ascending by id.
    own
        Which of them are the cell's.
    cell
        Its sky; None for the whole sky, and for seams.
    bands
        From blue to red.
    fwhm
        Median FWHM of the run's PSFs, arcsec.
    years
        From the first to the last visit of the run: as `fwhm` the same for all cells.
    configs
        Stage name to its options.
    """
    clipboard: Clipboard = {
        "rows": rows, "own": own, "cell": cell, "bands": bands, "fwhm": fwhm,
        "years": years,
    }  # fmt: skip
    done = run_chain(PIPELINE, configs or {}, clipboard)
    return Association(
        done["source"],
        done["object"],
        done["badSource"],
        done["sourceHist"],
        done["badSourceHist"],
        done["seam"],
    )
