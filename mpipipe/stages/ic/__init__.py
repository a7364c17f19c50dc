"""Pipeline ic: image characterization, the PSF, WCS and zero point of an exposure."""

from __future__ import annotations

from mpipipe.stages.ic.initialize import initialize
from mpipipe.stages.ic.source_detection import source_detection
from mpipipe.stages.ic.source_measurement import source_measurement
from mpipipe.stages.stage import Stage

PIPELINE: tuple[Stage, ...] = (initialize, source_detection, source_measurement)
