"""ca: CCD assembly. Corrected channels become one image of the CCD, with defects masked."""

from mpipipe.stages.ca import (
    assemble_ccd,
    initialize,
    isr_ccd_defect,
    isr_ccd_sdqa,
    output,
    sdqa,
)
from mpipipe.stages.stage import Stage

PIPELINE: tuple[Stage, ...] = (
    initialize.initialize,
    assemble_ccd.assemble_ccd,
    isr_ccd_defect.isr_ccd_defect,
    isr_ccd_sdqa.isr_ccd_sdqa,
    sdqa.sdqa,
    output.output,
)
