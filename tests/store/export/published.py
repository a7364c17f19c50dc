"""Small published tables with everything that is hard to carry over."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mpipipe.data.association import SOURCE
from mpipipe.data.schema import Column, Schema
from mpipipe.store.hdf5 import Alone, publish_catalogue
from mpipipe.store.sky_index import sky_order

HARD = Schema(
    "hard",
    'All that is hard to carry over: <&"quotes">, commas',
    (
        Column("id", "i8", "", "beyond 2**53", "meta.id;meta.main"),
        Column("ra", "f8", "deg", "right ascension", "pos.eq.ra;meta.main"),
        Column("dec", "f8", "deg", "declination", "pos.eq.dec;meta.main"),
        Column("flux", "f4", "nJy", "flux, NaN and infinities", "phot.flux.density"),
        Column("var", "f8", "nJy2", "with 'quotes' & <angles>", "stat.variance"),
        Column("small", "i2", "", "16 bits", ""),
        Column("whole", "i4", "pix", "32 bits", ""),
        Column("byte", "u1", "", "8 bits without sign", ""),
        Column("signed byte", "i1", "", "8 bits; a name with a space", ""),
        Column("word", "u2", "", "16 bits without sign", ""),
        Column("long", "u4", "", "32 bits without sign", ""),
        Column("flag", "?", "", "truth", "meta.code"),
        Column("text", "S24", "", "text as bytes", ""),
        Column("größe", "U8", "", "text beyond ASCII, name too", ""),
        Column('odd";--', "f4", "", "a name that would end a statement", ""),
    ),
)
TEXTS = ["", "plain", "a,b", 'say "ah"', "two\nlines", "größe ß", "星 and 🌟", " spaces ", "\\N"]


def hard_rows(n: int = 257, seed: int = 0) -> np.ndarray:
    """Rows of `HARD` in the order of the sky, the last ones without a position."""
    rng = np.random.default_rng(seed)
    rows = HARD.empty(n)
    if not n:
        return rows
    rows["id"] = (1 << 62) + 1 + rng.permutation(n)
    rows["ra"], rows["dec"] = rng.uniform(0, 360, n), rng.uniform(-90, 90, n)
    rows["ra"][: n // 8] = np.nan
    rows["flux"] = rng.normal(size=n).astype("f4") * np.float32(1e-30)
    rows["flux"][1::5], rows["flux"][2::5], rows["flux"][3::5] = np.nan, np.inf, -np.inf
    rows["flux"][0], rows["flux"][5:6] = np.float32(1e-45), -0.0
    rows["var"] = rng.normal(size=n) * 1e300
    rows["var"][::3] = np.nan
    for name in ("small", "whole", "byte", "signed byte", "word", "long"):
        limits = np.iinfo(rows.dtype[name])
        rows[name] = rng.integers(limits.min, limits.max, n, dtype=rows.dtype[name], endpoint=True)
        rows[name][0], rows[name][-1] = limits.min, limits.max
    rows["flag"] = rng.random(n) > 0.5
    rows["text"] = [text.encode() for text in rng.choice(TEXTS, n)]
    rows["größe"] = [text[:8] for text in rng.choice(TEXTS, n)]
    rows['odd";--'] = np.arange(n) / 7
    return rows[sky_order(rows["ra"], rows["dec"], rows["id"])]


def publish(folder: Path, schema: Schema, rows: np.ndarray, *, by_sky: bool = True) -> Path:
    """Publish a table as a run does."""
    (folder / "catalogs").mkdir(parents=True, exist_ok=True)
    path = folder / "catalogs" / f"{schema.name}.h5"
    publish_catalogue(Alone(), path, schema, {0: rows}, by_sky=by_sky)
    return path


OBJECT = Schema(
    "object",
    "Objects",
    (
        Column("objectId", "i8", "", "object", "meta.id;meta.main"),
        Column("ra", "f8", "deg", "right ascension", "pos.eq.ra;meta.main"),
        Column("dec", "f8", "deg", "declination", "pos.eq.dec;meta.main"),
        Column("gMean", "f4", "nJy", "mean flux in g", "phot.flux.density;em.opt"),
    ),
)


def sky_tables(n_objects: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Objects, and three sources in g and r of each, as association gives them."""
    rng = np.random.default_rng(seed)
    objects = OBJECT.empty(n_objects)
    objects["objectId"] = (1 << 61) + 7 * np.arange(n_objects)
    objects["ra"] = (359.9 + rng.uniform(0, 0.2, n_objects)) % 360
    objects["dec"] = rng.uniform(-0.1, 0.1, n_objects)
    objects["gMean"] = rng.uniform(1e3, 1e5, n_objects)
    objects = objects[sky_order(objects["ra"], objects["dec"], objects["objectId"])]
    sources = SOURCE.empty(6 * n_objects)
    of = np.repeat(objects, 6)
    sources["id"] = (1 << 60) + rng.permutation(len(sources))
    sources["objectId"] = of["objectId"]
    sources["band"] = np.tile([b"g", b"r"], 3 * n_objects)
    sources["mjd"] = 60000 + rng.uniform(0, 100, len(sources))
    sources["visit"] = np.tile(np.arange(6), n_objects)
    sources["ra"] = (of["ra"] + rng.normal(scale=1e-5, size=len(sources))) % 360
    sources["dec"] = of["dec"] + rng.normal(scale=1e-5, size=len(sources))
    sources["psfFlux"] = of["gMean"] * rng.normal(1, 0.05, len(sources))
    sources["psfFluxErr"] = 0.05 * of["gMean"]
    sources["flag_edge"] = rng.random(len(sources)) > 0.9
    return objects, sources[sky_order(sources["ra"], sources["dec"], sources["id"])]
