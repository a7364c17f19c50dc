"""Pipeline cs: the snaps of a visit become one exposure without cosmic rays and background."""

from __future__ import annotations

from mpipipe.stages.cs.background_estimation import background_estimation
from mpipipe.stages.cs.cr_split_combine import cr_split_combine
from mpipipe.stages.cs.diffim import diffim
from mpipipe.stages.cs.initialize import initialize
from mpipipe.stages.cs.output import output
from mpipipe.stages.cs.reject import reject
from mpipipe.stages.cs.source_detection import source_detection
from mpipipe.stages.stage import Stage

PIPELINE: tuple[Stage, ...] = (
    initialize,
    background_estimation,
    reject,
    diffim,
    source_detection,
    cr_split_combine,
    output,
)
