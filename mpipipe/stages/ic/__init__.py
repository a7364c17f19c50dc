"""Pipeline ic: image characterization, the PSF, WCS and zero point of an exposure."""
