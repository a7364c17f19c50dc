"""Files appear whole or not at all, and failures say what to do."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from mpipipe.data.errors import BadDataError, OutputError
from mpipipe.store import fits as store_fits
from mpipipe.store.checksums import aside_of, asides_in
from mpipipe.store.fits import open_fits, write_bytes_atomically, write_fits_atomically


def hdus() -> fits.HDUList:
    return fits.HDUList([fits.PrimaryHDU(np.arange(100, dtype=np.float32).reshape(10, 10))])


def test_writes_and_gives_the_checksum(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.fits"
    digest = write_fits_atomically(path, hdus())
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    with open_fits(path) as found:
        assert found[0].data[3, 4] == 34.0
    assert os.listdir(path.parent) == ["a.fits"]


def test_same_content_gives_same_bytes(tmp_path: Path) -> None:
    first = write_fits_atomically(tmp_path / "a.fits", hdus())
    assert write_fits_atomically(tmp_path / "b.fits", hdus()) == first


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "the quota is used up"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission"),
    ],
)
def test_failure_leaves_the_old_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, hint: str
) -> None:
    path = tmp_path / "a.fits"
    write_bytes_atomically(path, b"old")

    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(store_fits.os, "fsync", fail)
    with pytest.raises(OutputError) as caught:
        write_fits_atomically(path, hdus())
    assert "a.fits" in str(caught.value) and hint in str(caught.value)
    assert os.listdir(tmp_path) == ["a.fits"] and path.read_bytes() == b"old"


def test_full_disk(tmp_path: Path) -> None:
    """/dev/full is a real ENOSPC."""
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    with pytest.raises(OSError) as caught, open("/dev/full", "wb", buffering=0) as full:
        full.write(b"x")
    assert caught.value.errno == errno.ENOSPC


def test_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file/a\.fits.*a part of the path is a file"):
        write_fits_atomically(tmp_path / "file" / "a.fits", hdus())


def test_what_does_not_read_back_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that writes something else must not pass for success."""
    real = store_fits._write_synced

    def corrupting(path: Path, content: bytes | memoryview) -> None:
        damaged = bytearray(content)
        damaged[len(damaged) // 2] ^= 1
        real(path, bytes(damaged))

    monkeypatch.setattr(store_fits, "_write_synced", corrupting)
    with pytest.raises(OutputError, match="does not read back"):
        write_fits_atomically(tmp_path / "a.fits", hdus())
    assert os.listdir(tmp_path) == []


def test_open_fits_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "text.fits"
    path.write_text("this is no FITS file")
    with pytest.raises(BadDataError, match=r"text\.fits"), open_fits(path):
        pass
    with pytest.raises(BadDataError, match="No such file"), open_fits(tmp_path / "none.fits"):
        pass


def test_what_is_written_aside_is_nobody_elses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hosts and containers have processes of the same number; one may have died while writing."""
    monkeypatch.setattr(os, "getpid", lambda: 7)
    path = tmp_path / "a.fits"
    first = aside_of(path)
    first.write_bytes(b"half")
    assert aside_of(path) not in (first, path)
    for _ in range(2):
        write_bytes_atomically(path, b"whole")
    assert path.read_bytes() == b"whole"
    assert first.read_bytes() == b"half"


def test_only_files_that_ours_write_aside_are_known_as_such(tmp_path: Path) -> None:
    """A person's downloads end in the same."""
    (tmp_path / "below").mkdir()
    ours = [
        aside_of(tmp_path / "calexp-1-R22.fits"),
        tmp_path / "src.h5.0123456789abcdef.part",
        tmp_path / "src.h5.0123456789abcdef.part.space.part",
        tmp_path / "below" / "c1.columns.2.spill.part",
    ]
    for path in (*ours, tmp_path / "film.mkv.part", tmp_path / "below" / "thesis.2.part"):
        path.touch()
    assert set(asides_in(tmp_path, below=True)) == set(ours)
    assert set(asides_in(tmp_path, below=False)) == set(ours[:3])
