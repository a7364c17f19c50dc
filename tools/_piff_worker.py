"""Models PSFs with Piff; runs under the Python that has Piff, and knows nothing else of mpipipe.

usage: python _piff_worker.py JOBS.json

Each job names an image (FITS: pixels, inverse variance of the sky), the stars (FITS table, x and
y as FITS counts them), places (x, y) to draw the model at, its options, and the file to write the
stamps to (npy). Prints a JSON list of CPU seconds, numbers of stars and errors.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import piff


def model(job: dict[str, Any]) -> dict[str, Any]:
    """Fit and draw one PSF."""
    options = job["options"]
    config = {
        "input": {
            "image_file_name": job["image"],
            "image_hdu": 0,
            "weight_hdu": 1,
            "cat_file_name": job["stars"],
            "cat_hdu": 1,
            "x_col": "x",
            "y_col": "y",
            "gain": 1.0,
            "stamp_size": options["stamp"],
            "wcs": {"type": "PixelScale", "scale": options["scale"]},
        },
        "psf": {
            "model": {
                "type": "PixelGrid",
                "scale": options["grid"],
                "size": options["size"],
                "interp": "Lanczos(7)",
            },
            "interp": {"type": "BasisPolynomial", "order": 2, "solver": options["solver"]},
            "outliers": {"type": "Chisq", "nsigma": 4, "max_remove": 0.03},
        },
    }
    start = process_time()
    psf = piff.process(config)
    seconds = process_time() - start
    stamps = [
        psf.draw(x=x, y=y, chipnum=0, stamp_size=job["stamp"], center=True).array
        for x, y in job["places"]
    ]
    np.save(job["out"], np.array(stamps))
    n_stars = sum(not star.is_reserve and not star.is_flagged for star in psf.stars)
    return {"cpu": seconds, "n_stars": int(n_stars), "error": ""}


def main() -> int:
    """Do all jobs; a PSF that can not be made is said, not fatal."""
    results = []
    for job in json.loads(Path(sys.argv[1]).read_text()):
        try:
            results.append(model(job))
        except Exception as error:  # whatever goes wrong inside Piff is a result of the comparison
            results.append({"cpu": float("nan"), "n_stars": 0, "error": f"{error}"})
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
