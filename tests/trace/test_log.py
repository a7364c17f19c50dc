"""Logs: every line labelled; the terminal hears rank 0, and everybody's errors."""

import logging

import pytest

from mpipipe.trace import log
from mpipipe.trace.log import LogConfig


@pytest.fixture(autouse=True)
def stopped():
    yield
    log.stop()


def test_lines_are_labelled(tmp_path):
    path = log.log_path(tmp_path / "logs", 3)
    log.start(LogConfig(str(path), "night1", 3))
    logger = log.get_logger("mpipipe.stages.isr")
    logger.info("begin")
    with log.labels(visit=12, ccd="R:2,2 S:1,1"):
        log.set_stage("isr.overscan")
        logger.info("level is %d", 2522)
    logger.info("end")
    lines = path.read_text().splitlines()
    assert len(lines) == 3
    assert "run=night1 rank=3 visit=12 ccd=R:2,2_S:1,1 stage=isr.overscan" in lines[1]
    assert lines[1].endswith("mpipipe.stages.isr: level is 2522")
    assert "visit=- ccd=- stage=-" in lines[0] and "visit=- ccd=- stage=-" in lines[2]


@pytest.mark.parametrize(("rank", "said"), [(0, ["news", "trouble"]), (1, ["trouble"])])
def test_terminal(capsys, rank, said):
    log.start(LogConfig(rank=rank))
    logger = log.get_logger("mpipipe.run")
    logger.debug("detail")
    logger.info("news")
    logger.error("trouble")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[-1] for line in lines] == said


def test_levels(tmp_path, capsys):
    path = tmp_path / "rank.log"
    log.start(LogConfig(str(path), level="DEBUG", terminal_level="WARNING"))
    log.get_logger("mpipipe").debug("detail")
    assert "detail" in path.read_text() and "detail" not in capsys.readouterr().err
    with pytest.raises(ValueError, match="no log level"):
        log.start(LogConfig(level="LOUD"))


def test_resume_and_stop(tmp_path):
    path = tmp_path / "rank.log"
    log.start(LogConfig(str(path)))
    given = log.settings()
    log.stop()
    assert log.settings() is None and not logging.getLogger("mpipipe").handlers
    log.resume(given)
    log.resume(given)
    log.get_logger("mpipipe").info("once")
    assert path.read_text().count("once") == 1
    log.resume(None)
    assert not logging.getLogger("mpipipe").handlers
