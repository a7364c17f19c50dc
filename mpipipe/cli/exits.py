"""Exit codes, the same for every command. The documentation's table is made from these."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """What a command's exit code says."""

    DONE = 0
    """Everything was done."""
    COULD_NOT_RUN = 1
    """Nothing ran: configuration, input or output folder is at fault; the message says which."""
    USAGE = 2
    """The command line makes no sense."""
    WITH_FAILURES = 3
    """The run went through, but some tasks failed, were partial or had bad data, as
    `outcomes.json` says."""
    NOT_VERIFIED = 4
    """`verify` found a product missing or altered, or the run incomplete, or a record damaged;
    `recreate` made another product than the run."""
    DIFFERS = 5
    """`compare` found more than noise between two runs, or `scorecard --strict` a requirement that
    is missed."""
    RESUME_ME = 75
    """Interrupted after committing, on request or because a silent rank could not be ended;
    `mpipipe run --resume RUN` goes on."""
