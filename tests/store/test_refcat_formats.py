"""Star catalogues of every format and from every archive come in as they mean it."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy import units as u
from astropy.table import MaskedColumn, Table

from mpipipe.data.errors import BadDataError, ConfigError
from mpipipe.store.refcat import sources
from mpipipe.store.refcat.columns import Wish, epoch_mjd
from mpipipe.store.refcat.index import Index
from mpipipe.store.refcat.ingest import Ingest
from mpipipe.store.refcat.reading import read_reference

N = 25
J2016 = 57388.5
IDS = 4000000000000000001 + np.arange(N)


def gaia_table() -> Table:
    """As the archive gives it, with what is missing for one star."""
    rng = np.random.default_rng(5)
    table = Table()
    table["source_id"] = IDS
    table["ra"] = rng.uniform(10.0, 10.2, N) * u.deg
    table["dec"] = rng.uniform(-5.2, -5.0, N) * u.deg
    table["ra_error"] = rng.uniform(0.1, 0.3, N).astype("f4") * u.mas
    table["dec_error"] = rng.uniform(0.1, 0.3, N).astype("f4") * u.mas
    missing = np.arange(N) == 3
    for name, unit in (("pmra", u.mas / u.yr), ("pmdec", u.mas / u.yr), ("parallax", u.mas)):
        values = rng.normal(0.0, 5.0, N)
        table[name] = MaskedColumn(values, mask=missing, unit=unit)
    table["ref_epoch"] = np.full(N, 2016.0) * u.yr
    for band in ("g", "bp", "rp"):
        table[f"phot_{band}_mean_mag"] = rng.uniform(14.0, 18.0, N).astype("f4") * u.mag
        table[f"phot_{band}_mean_flux_over_error"] = np.full(N, 100.0, dtype="f4")
    return table


def check_gaia(folder: Path) -> None:
    table = gaia_table()
    stars, _ = read_reference(folder, 10.1, -5.1, 1.0)
    rows = np.sort(stars.rows, order="id")
    assert stars.bands == ("gaia_g", "gaia_bp", "gaia_rp")
    assert rows["id"].tolist() == IDS.tolist()
    assert rows["ra"].tolist() == np.asarray(table["ra"]).tolist()
    assert rows["dec"].tolist() == np.asarray(table["dec"]).tolist()
    assert rows["ra_error"] == pytest.approx(np.asarray(table["ra_error"]), rel=1e-6)
    for ours, theirs in (("pm_ra", "pmra"), ("pm_dec", "pmdec"), ("parallax", "parallax")):
        assert np.isnan(rows[ours][3])
        known = np.arange(N) != 3
        assert rows[ours][known] == pytest.approx(np.asarray(table[theirs])[known], rel=1e-6)
    assert rows["epoch"] == pytest.approx(J2016)
    offsets = {"g": 0.11368, "bp": 0.01541, "rp": 0.35609}
    for band, offset in offsets.items():
        magnitude = np.asarray(table[f"phot_{band}_mean_mag"])
        assert rows[f"mag_gaia_{band}"] == pytest.approx(magnitude + offset, abs=1e-4)
        assert rows[f"mag_gaia_{band}_error"] == pytest.approx(0.0108574, rel=1e-4)


def write_parquet(table: Table, path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    columns = {
        name: pa.array(
            np.ma.getdata(table[name]), mask=np.ma.getmaskarray(np.ma.asarray(table[name]))
        )
        for name in table.colnames
    }
    pq.write_table(pa.table(columns), path, row_group_size=7)


def write_gzipped(kind: str) -> Callable[[Table, Path], None]:
    def write(table: Table, path: Path) -> None:
        plain = path.with_name("plain")
        table.write(plain, format=kind)
        path.write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()

    return write


def write_null_csv(table: Table, path: Path) -> None:
    """The archive's newer spelling of what is missing."""
    table.write(path, format="ascii.csv", fill_values=[("--", "null"), ("", "null")])


FORMATS: dict[str, Callable[[Table, Path], None]] = {
    "stars.fits": lambda table, path: table.write(path),
    "stars.fits.gz": lambda table, path: table.write(path),
    "stars.parquet": write_parquet,
    "stars.csv": lambda table, path: table.write(path, format="ascii.csv"),
    "null.csv": write_null_csv,
    "stars.tsv": lambda table, path: table.write(path, format="ascii.tab"),
    "stars.csv.gz": write_gzipped("ascii.csv"),
    "stars.ecsv": lambda table, path: table.write(path, delimiter=" "),
    "comma.ecsv": lambda table, path: table.write(path, delimiter=","),
    # What Gaia's bulk download calls .csv.gz is ECSV.
    "GaiaSource.csv.gz": write_gzipped("ascii.ecsv"),
    "stars.vot": lambda table, path: table.write(path, format="votable"),
    "stars.vot.gz": write_gzipped("votable"),
    "binary.xml": lambda t, path: t.write(path, format="votable", tabledata_format="binary2"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_gaia_in_every_format(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read in several pieces, where that can be."""
    FORMATS[name](gaia_table(), tmp_path / name)
    monkeypatch.setattr(sources, "CHUNK_ROWS", 6)
    monkeypatch.setattr(sources, "_CHUNK_BYTES", 700)
    shares: list[float] = []
    work = Ingest([tmp_path / name])
    work.write(tmp_path / "refcat", "Gaia", watch=lambda step, share, _: shares.append(share))
    check_gaia(tmp_path / "refcat")
    assert work.n_read == N and work.notes == []
    assert all(0.0 < share <= 1.0 for share in shares) and shares[-1] == 1.0


def ingest(tmp_path: Path, table: Table, *columns: str, **options: Any) -> tuple[Index, Ingest]:
    table.write(tmp_path / "t.fits", overwrite=True)
    work = Ingest([tmp_path / "t.fits"], [Wish.parse(text) for text in columns], **options)
    return work.write(tmp_path / "refcat", "test"), work


def rows_of(tmp_path: Path) -> np.ndarray:
    return np.sort(read_reference(tmp_path / "refcat", 0.0, 0.0, 180.0)[0].rows, order="id")


def test_pan_starrs(tmp_path: Path) -> None:
    """Errors in arcsec, MJD, and -999 for what is missing."""
    table = Table()
    table["objID"] = [11, 12]
    table["raMean"], table["decMean"] = [150.0, 150.1], [2.0, 2.1]
    table["raMeanErr"], table["decMeanErr"] = [0.02, -999.0], [0.03, 0.01]
    table["epochMean"] = [56000.5, 56100.5]
    table["gMeanPSFMag"], table["gMeanPSFMagErr"] = [18.0, -999.0], [0.01, -999.0]
    table["yMeanPSFMag"], table["yMeanPSFMagErr"] = [17.0, 17.5], [0.02, 0.02]
    index, _ = ingest(tmp_path, table)
    rows = rows_of(tmp_path)
    assert index.bands == ("g", "y")
    assert rows["ra_error"] == pytest.approx([20.0, np.nan], nan_ok=True)
    assert rows["epoch"].tolist() == [56000.5, 56100.5]
    assert rows["mag_g"] == pytest.approx([18.0, np.nan], nan_ok=True)
    assert rows["mag_y_error"] == pytest.approx([0.02, 0.02])


def test_gaia_of_vizier(tmp_path: Path) -> None:
    """Gmag is Gaia's G, gmag is the g of others."""
    table = Table()
    table["Source"] = [5]
    table["RA_ICRS"], table["DE_ICRS"] = [1.0] * u.deg, [2.0] * u.deg
    table["e_RA_ICRS"], table["Plx"] = [0.1] * u.mas, [3.0] * u.mas
    table["pmRA"], table["pmDE"] = [1.0] * (u.mas / u.yr), [2.0] * (u.mas / u.yr)
    table["Gmag"], table["e_Gmag"], table["RPmag"] = [15.0], [0.003], [14.0]
    index, work = ingest(tmp_path, table, epoch=J2016)
    (row,) = rows_of(tmp_path)
    assert index.bands == ("gaia_g", "gaia_rp") and work.notes == []
    assert row["mag_gaia_g"] == pytest.approx(15.1137, abs=1e-4)
    assert row["mag_gaia_g_error"] == pytest.approx(0.003)
    assert (row["id"], row["parallax"], row["pm_dec"], row["epoch"]) == (5, 3.0, 2.0, J2016)


def test_a_column_map_with_units_and_offsets(tmp_path: Path) -> None:
    table = Table()
    table["alpha"], table["delta"] = [1.5], [np.pi / 6]
    table["sigma"] = [0.05]
    table["mu"] = [0.002] * (u.arcsec / u.yr)
    table["R"], table["dR"] = [15.0], [0.01]
    ingest(
        tmp_path, table,
        "ra=alpha:hourangle", "dec=delta:rad", "ra_error=sigma:arcsec", "pm_ra=mu",
        "mag_r=R+0.21", "mag_r_error=dR",
    )  # fmt: skip
    (row,) = rows_of(tmp_path)
    assert row["ra"] == pytest.approx(22.5, abs=1e-12)
    assert row["dec"] == pytest.approx(30.0, abs=1e-12)
    assert row["ra_error"] == pytest.approx(50.0) and row["pm_ra"] == pytest.approx(2.0)
    assert row["mag_r"] == pytest.approx(15.21) and row["mag_r_error"] == pytest.approx(0.01)


def test_sexagesimal_positions(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(
        "RAJ2000,DEJ2000,rmag\n01:30:00.0,-00:30:00.0,15\n23 59 59.9,+10 00 00,16\n,,1\n"
    )
    work = Ingest([path])
    work.write(tmp_path / "refcat", "test")
    rows = np.sort(rows_of(tmp_path), order="mag_r")
    assert rows["ra"] == pytest.approx([22.5, 359.9995833333])
    assert rows["dec"] == pytest.approx([-0.5, 10.0])
    assert work.n_unplaced == 1


def test_rows_without_a_position_are_counted(tmp_path: Path) -> None:
    table = Table({"id": [1, 2, 3, 4], "ra": [1.0, np.nan, 2.0, -45.0], "dec": [0, 0, 95.0, 0]})
    index, work = ingest(tmp_path, table)
    assert (work.n_read, work.n_unplaced, index.n_rows) == (4, 2, 2)
    assert index.made["without_position_left_out"] == 2
    assert rows_of(tmp_path)["ra"].tolist() == [1.0, 315.0], "negative ones are brought to 0..360"


def test_ids_follow_from_positions_if_there_are_none(tmp_path: Path) -> None:
    """And do not depend on the order of the rows."""
    table = Table({"ra": [1.0, 2.0, 3.0], "dec": [0.0, 1.0, 2.0], "Source": ["a", "b", "c"]})
    _, work = ingest(tmp_path, table)
    assert any("ids follow from positions" in note for note in work.notes)
    first = rows_of(tmp_path)
    (tmp_path / "refcat").rename(tmp_path / "first")
    table["Source"] = ["1", "2", "3"]
    ingest(tmp_path, table[::-1])
    assert rows_of(tmp_path)["id"].tolist() == [1, 2, 3], "but numbers written as text are numbers"
    (tmp_path / "refcat").rename(tmp_path / "second")
    ingest(tmp_path, table["ra", "dec"][::-1])
    assert sorted(rows_of(tmp_path)["id"].tolist()) == sorted(first["id"].tolist())


def test_an_unknown_epoch_is_told(tmp_path: Path) -> None:
    table = Table({"ra": [1.0], "dec": [0.0], "pmra": [1.0], "pmdec": [1.0]})
    _, work = ingest(tmp_path, table)
    assert any("--epoch" in note and "proper motions" in note for note in work.notes)


@pytest.mark.parametrize(
    ("value", "mjd"), [(2016.0, J2016), (2000.0, 51544.5), (57388.5, J2016), (2457389.0, J2016)]
)
def test_epochs(value: float, mjd: float) -> None:
    assert epoch_mjd(value) == pytest.approx(mjd)


def test_no_epoch() -> None:
    with pytest.raises(ConfigError, match="2016"):
        epoch_mjd(3.0)


def test_several_files_and_folders(tmp_path: Path) -> None:
    table = gaia_table()
    (tmp_path / "gaia" / "deep").mkdir(parents=True)
    table[:10].write(tmp_path / "gaia" / "b.csv")
    table[10:20].write(tmp_path / "gaia" / "deep" / "a.fits")
    table[18:].write(tmp_path / "rest.vot", format="votable")
    (tmp_path / "gaia" / "readme").write_text("not a table")
    work = Ingest([tmp_path / "gaia", tmp_path / "rest.vot"])
    index = work.write(tmp_path / "refcat", "Gaia")
    check_gaia(tmp_path / "refcat")
    assert index.made["duplicates_left_out"] == 2


def test_files_of_other_bands_are_refused(tmp_path: Path) -> None:
    Table({"ra": [1.0], "dec": [0.0], "gmag": [1.0]}).write(tmp_path / "a.fits")
    Table({"ra": [1.0], "dec": [0.0], "rmag": [1.0]}).write(tmp_path / "b.fits")
    with pytest.raises(BadDataError, match=r"b\.fits.*bands r.*has g"):
        Ingest([tmp_path / "a.fits", tmp_path / "b.fits"]).write(tmp_path / "refcat", "test")
    assert not (tmp_path / "refcat").exists()


# -- errors tell the way out ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "wishes", "message"),
    [
        (("ra_mean", "dec"), (), r"right ascension; near it: ra_mean.*--column ra="),
        (("ra", "declin"), (), r"declination; near it: declin.*--column dec="),
        (("ra", "dec", "rmagn"), ("mag_r=rmag",), r"no column 'rmag'; near it: rmagn"),
        (("ra", "dec", "mag_g", "mag_G"), (), r"capital letters"),
    ],
)
def test_missing_columns(
    tmp_path: Path, columns: tuple[str, ...], wishes: tuple[str, ...], message: str
) -> None:
    path = tmp_path / "t.csv"
    path.write_text(",".join(columns) + "\n" + ",".join("1" for _ in columns) + "\n")
    with pytest.raises(BadDataError, match=message):
        Ingest([path], [Wish.parse(w) for w in wishes]).write(tmp_path / "refcat", "test")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raa=RA", r"near it: ra"),
        ("ra", r"is no column map"),
        ("=x", r"no column of a reference catalogue"),
        ("mag_=x", r"no column of a reference catalogue"),
    ],
)
def test_wishes_that_make_no_sense(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Wish.parse(text)


def test_a_unit_that_makes_no_sense(tmp_path: Path) -> None:
    table = Table({"ra": [1.0] * u.s, "dec": [0.0]})
    with pytest.raises(BadDataError, match=r"column 'ra' is in 's'.*--column ra=ra:UNIT"):
        ingest(tmp_path, table)
    ingest(tmp_path, table, "ra=ra:deg")


def test_text_where_numbers_should_be(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("ra,dec,gmag\n1,2,bright\n")
    with pytest.raises(BadDataError, match=r"t\.csv.*'gmag' holds text"):
        Ingest([path]).write(tmp_path / "refcat", "test")


def test_no_star_at_all(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("ra,dec\n,\n")
    with pytest.raises(ConfigError, match="no star with a position"):
        Ingest([path]).write(tmp_path / "refcat", "test")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t.csv"]


@pytest.mark.parametrize("name", ["stars.fits", "stars.parquet", "stars.csv.gz", "stars.vot"])
@pytest.mark.parametrize("damage", ["cut", "nonsense", "empty"])
def test_damaged_files_are_named(tmp_path: Path, name: str, damage: str) -> None:
    path = tmp_path / name
    FORMATS[name](gaia_table(), path)
    content = path.read_bytes()
    path.write_bytes(
        {"cut": content[: len(content) // 2], "nonsense": b"\1\2", "empty": b""}[damage]
    )
    with pytest.raises((BadDataError, ConfigError), match=name.replace(".", r"\.")):
        Ingest([path]).write(tmp_path / "refcat", "test")
    assert sorted(p.name for p in tmp_path.iterdir()) == [name]


@pytest.mark.parametrize("name", ["stars.dat", "nothing.csv"])
def test_unknown_files(tmp_path: Path, name: str) -> None:
    (tmp_path / "stars.dat").write_text("ra dec\n1 2\n")
    with pytest.raises(ConfigError, match=name.replace(".", r"\.")):
        Ingest([tmp_path / name]).write(tmp_path / "refcat", "test")


# -- what others and we ourselves write -----------------------------------------------------------


def test_the_simulators_catalogue(tmp_path: Path) -> None:
    from mpipipe.sim.refcat import reference_stars, write_reference
    from mpipipe.sim.survey import preset

    survey = preset("tiny", seed=1)
    (path,) = write_reference(survey, tmp_path)
    work = Ingest([path])
    index = work.write(tmp_path / "refcat", "simulated")
    theirs, ours = reference_stars(survey), rows_of(tmp_path)
    assert index.bands == ("u", "g", "r", "i", "z", "y") and work.notes == []
    for name in theirs.dtype.names or ():
        assert ours[name].tolist() == pytest.approx(theirs[name].tolist(), nan_ok=True), name


def test_lco_gaia(realdata: Path, tmp_path: Path) -> None:
    folder = realdata / "lco-gaia"
    if not folder.is_dir():
        pytest.skip("lco-gaia is not among the real frames")
    wishes = [Wish.parse(w) for w in ("mag_gaia_rp=mag+0.3561", "mag_gaia_rp_error=magerr")]
    work = Ingest([folder / "sky_image_1_GaiaCat.ecsv"], wishes, J2016)
    work.write(tmp_path / "refcat", "Gaia")
    table = Table.read(folder / "sky_image_1_GaiaCat.ecsv")
    rows = rows_of(tmp_path)
    assert len(rows) == len(table) == work.n_read
    by_ra = rows[np.argsort(rows["ra"])]
    table.sort("ra")
    assert by_ra["ra"].tolist() == np.asarray(table["ra"]).tolist()
    magnitudes = np.ma.filled(table["mag"].astype(float), np.nan) + 0.3561
    assert by_ra["mag_gaia_rp"] == pytest.approx(magnitudes, nan_ok=True, rel=1e-6)


def test_banzai(realdata: Path, tmp_path: Path) -> None:
    folder = realdata / "banzai-matched"
    if not folder.is_dir():
        pytest.skip("banzai-matched is not among the real frames")
    index = Ingest([folder], epoch=J2016).write(tmp_path / "refcat", "matched")
    assert index.n_rows == 2892 and set(index.bands) == {"g", "r", "i", "z"}
    rows = rows_of(tmp_path)
    assert np.all((rows["ra"] >= 0.0) & (rows["ra"] < 360.0))
    assert 10.0 < np.nanmedian(rows["mag_r"]) < 20.0
