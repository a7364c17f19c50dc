"""Pictures of image characterization, one panel a question: what is in the PSF, WCS, zero point."""
