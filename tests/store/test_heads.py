"""What headers tell of an image stays known when the image was removed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mpipipe.data.errors import BadDataError
from mpipipe.store.heads import forget_head, keep_head, read_head


def test_the_beginning_is_kept(tmp_path: Path) -> None:
    from astropy.io import fits

    path, primary = tmp_path / "calexp-7-R22.fits", fits.PrimaryHDU()
    primary.header["MAGZERO"] = 31.5
    image = fits.CompImageHDU(np.arange(6000.0, dtype="f4").reshape(60, 100), name="IMAGE")
    fits.HDUList([primary, image]).writeto(path)
    before = read_head(path)
    assert before.shape == (60, 100) and before.header.get("MAGZERO") == 31.5
    keep_head(path)
    path.unlink()
    assert read_head(path).shape == before.shape
    assert read_head(path).header.get("MAGZERO") == 31.5
    forget_head(path)
    forget_head(path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(BadDataError, match=r"calexp-7-R22.fits: can not be read"):
        read_head(path)
    with pytest.raises(BadDataError, match="can not be read"):
        keep_head(path)
    (tmp_path / "calexp-7-R22.head").write_bytes(b"torn")
    with pytest.raises(BadDataError):
        read_head(path)
