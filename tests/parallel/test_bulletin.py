"""What two processes of a rank see of each other without a message."""

from __future__ import annotations

import os

import hypothesis.strategies as st
from hypothesis import given

from mpipipe.parallel.bulletin import Bulletin


def test_a_forked_process_writes_what_the_other_reads() -> None:
    bulletin = Bulletin()
    pid = os.fork()
    if not pid:
        bulletin.note_begun(3)
        bulletin.note_stage("isr.overscan")
        os._exit(0)
    os.waitpid(pid, 0)
    assert (bulletin.n_begun, bulletin.stage) == (3, "isr.overscan")


@given(st.text(max_size=200))
def test_any_stage_ends_with_the_next_task(name: str) -> None:
    bulletin = Bulletin()
    bulletin.note_begun(1)
    assert bulletin.stage == ""
    bulletin.note_stage(name)
    raw = name.encode(errors="replace")[:100]
    assert bulletin.stage == raw.decode(errors="replace")
    bulletin.ask_to_drop()
    assert bulletin.must_drop
    bulletin.note_begun(2)
    assert bulletin.stage == "" and bulletin.must_drop
    bulletin.clear()
    assert bulletin.n_begun == 0 and not bulletin.must_drop
