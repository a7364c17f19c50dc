"""Pipeline ic: image characterization, the PSF, WCS and zero point of an exposure."""

from __future__ import annotations

from mpipipe.stages.ic.ap_correct import ap_correct
from mpipipe.stages.ic.initialize import initialize
from mpipipe.stages.ic.output import output
from mpipipe.stages.ic.photocal import photocal
from mpipipe.stages.ic.psf_determination import psf_determination
from mpipipe.stages.ic.source_detection import source_detection
from mpipipe.stages.ic.source_measurement import source_measurement
from mpipipe.stages.ic.wcs_determination import wcs_determination
from mpipipe.stages.ic.wcs_verification import wcs_verification
from mpipipe.stages.stage import Stage

PIPELINE: tuple[Stage, ...] = (
    initialize,
    source_detection,
    source_measurement,
    psf_determination,
    ap_correct,
    wcs_determination,
    wcs_verification,
    photocal,
    output,
)
