"""Messages between ranks come out as they went in, and stay small."""

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from mpipipe.data.outcome import Outcome, OutcomeKind
from mpipipe.parallel import messages
from mpipipe.parallel.messages import Tag
from mpipipe.parallel.tasks import TaskResult

texts = st.text(max_size=3000)
outcomes = st.builds(
    Outcome,
    st.sampled_from(OutcomeKind),
    texts,
    texts,
    texts,
    st.lists(texts, max_size=5).map(tuple),
)
EAGER = 4000  # bytes that every MPI sends without asking the receiver first


def over_the_wire(tag, message):
    return messages.decode(tag, np.frombuffer(message.tobytes(), dtype=np.uint8))


@given(outcomes, st.integers(0, 2**62), st.integers(1, 99))
def test_text_is_cut_to_size(outcome, task_id, attempt):
    result = TaskResult("phase", task_id, attempt, outcome)
    message = messages.text(3, result)
    assert message.nbytes <= EAGER
    epoch, found_id, found_attempt, found = messages.split_text(
        over_the_wire(Tag.TEXT, message), outcome.kind
    )
    assert (epoch, found_id, found_attempt) == (3, task_id, attempt)
    assert found.kind is outcome.kind


def test_short_text_is_whole():
    outcome = Outcome(OutcomeKind.FAILED, "why", "isr.flat", "line 1\nline 2", ("a", "b"))
    message = messages.text(1, TaskResult("phase", 5, 2, outcome))
    assert messages.split_text(message, outcome.kind)[3] == outcome


def test_end_of_a_long_traceback_is_kept():
    outcome = Outcome(OutcomeKind.FAILED, "why", "", "x" * 10_000 + "ValueError: no")
    message = messages.text(1, TaskResult("phase", 5, 2, outcome))
    found = messages.split_text(message, outcome.kind)[3]
    assert found.traceback.endswith("ValueError: no") and len(found.traceback) > 2000


def test_records():
    tasks = [(task, 1 + task % 3) for task in range(messages.BATCH)]
    message = messages.assign(9, tasks)
    assert message.nbytes <= EAGER
    found = over_the_wire(Tag.ASSIGN, message)
    pairs = zip(found["task_id"].tolist(), found["attempt"].tolist(), strict=True)
    assert list(pairs) == tasks and set(found["epoch"]) == {9}
    outcome = Outcome(OutcomeKind.TIMED_OUT, "late")
    result = TaskResult("p", 2**40, 3, outcome, b"", 1.5, 0.5, 2**33)
    (found,) = over_the_wire(Tag.OUTCOME, messages.outcomes(9, [result]))
    assert found.tolist() == (9, 3, 2**40, 5, 1, 0, 1.5, 0.5, 2**33)
    many = messages.outcomes(9, [result] * messages.BATCH)
    assert len(many) == messages.BATCH and many.nbytes <= EAGER
