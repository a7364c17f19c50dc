"""Files as they are named on a command line."""

from __future__ import annotations

import pytest

from mpipipe.data.errors import MissingInputError
from mpipipe.store.naming import named_files


def look_into(folder):
    import os

    return [os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(".fits")]


def test_files_patterns_and_folders_each_once(tmp_path):
    for name in ("a.fits", "b.fits", "sub/c.fits", "sub/note.txt", "odd[1].fits"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    found = named_files(
        [f"{tmp_path}/?.fits", tmp_path / "a.fits", tmp_path / "sub"], look_into, "FITS file"
    )
    assert found.one_by_one == (f"{tmp_path}/a.fits", f"{tmp_path}/b.fits")
    assert found.in_folders == (f"{tmp_path}/sub/c.fits",)
    assert len(found.paths) == 3
    (tmp_path / "sub" / "deep").mkdir()
    (tmp_path / "sub" / "deep" / "d.fits").touch()
    deep = named_files([f"{tmp_path}/**/d.fits"], look_into, "FITS file")
    assert deep.paths == (f"{tmp_path}/sub/deep/d.fits",)
    odd = named_files([tmp_path / "odd[1].fits"], look_into, "FITS file")
    assert odd.paths == (f"{tmp_path}/odd[1].fits",), "a file of that name is no pattern"


@pytest.mark.parametrize(
    ("name", "reason"),
    [("x*", "nothing has a name"), ("x", "does not exist"), (".", "no FITS file in this folder")],
)
def test_what_stands_for_nothing_is_told(tmp_path, name, reason):
    with pytest.raises(MissingInputError, match=reason):
        named_files([tmp_path / name], look_into, "FITS file")
