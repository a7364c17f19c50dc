"""calibs: master bias, dark, flat and defects, gain and read noise, from calibration frames.

Pure functions of `RawFrame` values. The order for one CCD: `build_bias`, `photon_transfer`,
`build_dark`, `build_flat` for every band, `find_defects`; then, with the levels of all CCDs,
`camera_factors` and `scale_flat` bring the flats to the camera's mean response.
"""

from mpipipe.stages.calibs.combine import build_bias, build_dark, build_flat
from mpipipe.stages.calibs.defects import find_defects
from mpipipe.stages.calibs.normalise import camera_factors, scale_flat
from mpipipe.stages.calibs.photon_transfer import photon_transfer

__all__ = [
    "build_bias",
    "build_dark",
    "build_flat",
    "camera_factors",
    "find_defects",
    "photon_transfer",
    "scale_flat",
]
