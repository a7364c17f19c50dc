"""Weak scaling of the association over ranks: a field of its own for each, and where time goes.

Every rank gets as many sources, however many ranks there are: ten visits of a toy sky in files
``src-VISIT-CCD.h5``. What is timed is the whole branch `sa` under mpirun, from these files to
published tables, without the start of Python and MPI. More ranks than cores share the cores.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from _ranks import environment, run_ranks
from _toy_association import Toy, toy_sky

from mpipipe.data.association import FLAGS_OF_SRC, FLUX_KINDS
from mpipipe.data.ids import source_ids
from mpipipe.data.src import APERTURES, aperture_suffix
from mpipipe.quality.report import Check
from mpipipe.stages.sfm.sky_rows import EXPOSURE_SRC, with_sky_rows
from mpipipe.stages.sfm.src_table import SRC
from mpipipe.store.hdf5 import Alone, publish_catalogue

RANKS = (1, 2, 4)
CELLS = 4
"""Sky cells that a rank gets, at least."""
APART = 3.0
"""Degrees from field to field."""
LIMIT_S = 1200.0
_SAME = ("snr", "extendedness", "blendedness", "ra", "dec", "raErr", "decErr", "ra_dec_Cov")
_CCD = "A"


def weak_scaling(n_stars: int, seed: int) -> list[Check]:
    """Times, efficiencies, and the shares of exchange and files, by number of ranks."""
    checks: list[Check] = []
    first = float("nan")
    for ranks in RANKS:
        with tempfile.TemporaryDirectory(prefix="weak-association-") as folder:
            n = _write_fields(Path(folder, "src"), ranks, n_stars, seed)
            told = _timed(Path(folder), ranks, n // ranks // CELLS)
        shares = {kind: _share(told, kind) for kind in ("exchange", "read", "write", "startup")}
        wall = max(rank["wall_s"] for rank in told["ranks"]) * (1.0 - shares["startup"])
        first = first if checks else wall
        ideal = first * max(1.0, ranks / (os.cpu_count() or 1))
        what = f"weak scaling, {ranks} ranks, {n} sources"
        checks += [
            Check(f"{what}: wall time, s", wall),
            Check(f"{what}: efficiency, by cores", ideal / wall),
            Check(f"{what}: share of exchange, %", 100.0 * shares["exchange"]),
            Check(f"{what}: share of files, %", 100.0 * (shares["read"] + shares["write"])),
        ]
    return checks


def _write_fields(folder: Path, n_fields: int, n_stars: int, seed: int) -> int:
    """Files of the sources of as many fields; how many sources."""
    folder.mkdir()
    n = 0
    for field in range(n_fields):
        rows = toy_sky(Toy(n_stars=n_stars), seed + field).rows
        rows["ra"] += APART * field
        for epoch in np.unique(rows["visit"]).tolist():
            visit = 1000 * (field + 1) + epoch
            table = _exposure(rows[rows["visit"] == epoch], visit)
            facts = {"visit": visit, "ccd": _CCD, "band": table["band"][0].decode()}
            path = folder / f"src-{visit}-{_CCD}.h5"
            n += publish_catalogue(Alone(), path, EXPOSURE_SRC, {0: table}, facts)
    return n


def _exposure(source: np.ndarray, visit: int) -> np.ndarray:
    """The table of one exposure of sources as the sky has them."""
    src = SRC.empty(len(source))
    for name in _SAME:
        src[name] = source[name]
    for column in FLAGS_OF_SRC:
        src[column.name] = source[column.name]
    for kind in FLUX_KINDS:
        suffix = aperture_suffix(APERTURES[-1]) if kind == "ap" else ""
        for error in ("", "Err"):
            src[f"{kind}Flux{error}{suffix}"] = source[f"{kind}Flux{error}"]
    src["visit"], src["ccdNumber"] = visit, 0
    src["id"] = source_ids(visit, 0, np.arange(len(src)))
    return with_sky_rows(src, source)


def _timed(folder: Path, ranks: int, max_rows: int) -> Mapping[str, Any]:
    """What `mpipipe report time` tells of the association of the files in `folder`."""
    out = folder / "objects"
    cells = f"associate.max_rows={max_rows}"
    _mpipipe("associate", "-q", folder / "src", "-o", out, "-j", 1, "--set", cells)
    # All but the plan: the same run from its beginning, now under mpirun.
    inner = out / "run"
    for path in (inner / "records", inner / "trace", inner / "association"):
        shutil.rmtree(path)
    (inner / "completion.json").unlink()
    run_ranks(ranks, ["-m", "mpipipe", "run", "--json", "--resume", out], LIMIT_S)
    return json.loads(_mpipipe("report", "time", "--json", out))


def _share(told: Mapping[str, Any], kind: str) -> float:
    """Of all ranks' wall time."""
    ranks = told["ranks"]
    spent = sum(sum(rank["shares"].get(kind, {}).values()) for rank in ranks)
    return spent / sum(rank["wall_s"] for rank in ranks)


def _mpipipe(*words: object) -> str:
    command = [sys.executable, "-m", "mpipipe", *map(str, words)]
    done = subprocess.run(
        command, check=True, timeout=LIMIT_S, env=environment(), stdout=subprocess.PIPE, text=True
    )
    return done.stdout
