"""The documents of the repository, and what `tools/site` finds wrong with a site."""

from __future__ import annotations

import configparser
import importlib.util
import re
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

GOOD = '<link rel="icon" href="#"><img src="a.png"><h1 id="top"></h1><a href="two.html#there">'


@pytest.fixture
def site(repo: Path) -> ModuleType:
    loader = SourceFileLoader("site_tool", str(repo / "tools" / "site"))
    spec = importlib.util.spec_from_loader("site_tool", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def made(folder: Path, first: str) -> Path:
    """A site of two pages."""
    (folder / "a.png").touch()
    (folder / "one.html").write_text(first)
    (folder / "two.html").write_text('<p id="there"><a href="one.html">')
    return folder


def test_a_whole_site_has_no_problems(site: ModuleType, tmp_path: Path) -> None:
    assert list(site.problems(made(tmp_path, GOOD))) == []


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ('<script src="https://example.org/a.js"></script>', "from elsewhere"),
        ('<link rel="stylesheet" href="//example.org/a.css">', "from elsewhere"),
        ('<img src="b.png">', "which is not there"),
        ('<a href="three.html">', "which is not there"),
        ('<a href="two.html#here">', "no such place"),
        ('<a href="#bottom">', "no such place"),
    ],
)
def test_what_leads_nowhere_or_is_fetched_is_told(
    site: ModuleType, tmp_path: Path, bad: str, says: str
) -> None:
    (found,) = site.problems(made(tmp_path, GOOD + bad))
    assert found.startswith("one.html") and says in found


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md"])
def test_links_of_documents_outside_the_site_lead_somewhere(repo: Path, name: str) -> None:
    """Those of the site are checked when it is built."""
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", (repo / name).read_text())
    assert [target for target in targets if not (repo / target).exists()] == []


def test_all_extras_are_told(repo: Path) -> None:
    config = configparser.ConfigParser()
    config.read(repo / "setup.cfg")
    text = (repo / "docs" / "installing.md").read_text()
    assert [name for name in config["options.extras_require"] if f"| `{name}` |" not in text] == []


def test_words_of_the_code_stay_words(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in a description turns into markup, or ends the cell of a table."""
    monkeypatch.syspath_prepend(str(repo / "tools"))
    from _site_markdown import table, text

    assert text("a < b | c, `x | y`, ``<name>Flux``, 2 * 3, see --refcat: -1") == (
        r"a \< b \| c, `x | y`, `<name>Flux`, 2 \* 3, see `--refcat`: -1"
    )
    assert table(("a", "empty", "b"), [("1", "", "2")]) == "| a | b |\n| --- | --- |\n| 1 | 2 |\n"


def test_examples_of_own_stages_measurements_and_metrics_are_accepted(repo: Path) -> None:
    """Their decorators take them, in an interpreter of its own: they enter registries."""
    text = (repo / "docs" / "extending.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 3
    made = (
        "import types; block = np.ones((2, 3, 3), 'f4'); known = block > 0; known[1] = False\n"
        "stamps = types.SimpleNamespace(light=7 * block, known=known)\n"
        "src = np.zeros(2, [('brightest', 'f4'), ('flag_brightest', '?')])\n"
        "measure_brightest.run(None, src, types.SimpleNamespace(common=stamps))\n"
        "assert src['brightest'][0] == 7 and np.isnan(src['brightest'][1]), src\n"
        "assert src['flag_brightest'].tolist() == [False, True]\n"
        "assert dip.config().depth == 5 and 'cs.dip' == dip.name\n"
        "data = types.SimpleNamespace(exposures={'n_zero_point': np.array([3, 0])})\n"
        "assert [one.value for one in calibrated(data)] == [1.0]\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", "\n".join([*blocks, made])],
        capture_output=True, text=True, timeout=120, check=False, cwd=repo,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
