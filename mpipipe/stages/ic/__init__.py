"""Pipeline ic: image characterization, the PSF, WCS and zero point of a calibrated exposure."""
