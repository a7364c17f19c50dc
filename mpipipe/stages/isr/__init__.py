"""isr: instrument signature removal, channel by channel, in the read-out order of the pixels.

From raw ADU to electrons above bias and dark, relative to the camera's mean response, with mask
and variance. The compiled loops are imported when a stage first runs.
"""

from mpipipe.stages.isr import (
    bias,
    crosstalk,
    dark,
    flat,
    initialize,
    linearity,
    output,
    overscan,
    saturation,
    sdqa,
    variance,
)
from mpipipe.stages.stage import Stage

PIPELINE: tuple[Stage, ...] = (
    initialize.initialize,
    saturation.saturation,
    overscan.overscan,
    crosstalk.crosstalk,
    linearity.linearity,
    bias.bias,
    variance.variance,
    dark.dark,
    flat.flat,
    sdqa.sdqa,
    output.output,
)
