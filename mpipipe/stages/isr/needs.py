"""Whether a correction is made: what the camera asks against what there is."""

from __future__ import annotations

from mpipipe.data.camera import Need
from mpipipe.data.errors import MissingInputError

WAY_OUT = "supply it, or set corrections.{name} to if-available or off"


def is_wanted(
    name: str,
    need: Need,
    available: bool,
    what: str,
    applied: dict[str, str],
    warnings: list[str],
) -> bool:
    """Decide on one correction and note the decision when it is not made.

    Parameters
    ----------
    name
        Name of the correction, as in `Corrections`.
    available
        Whether its master or table exists.
    what
        That master or table in words, for messages.
    applied, warnings
        Where a correction that is left out is noted.

    Raises
    ------
    MissingInputError
        If it is required and not available.
    """
    if need is Need.OFF:
        applied[name] = "off"
        return False
    if available:
        return True
    if need is Need.REQUIRE:
        raise MissingInputError(
            f"the correction {name} is required and there is no {what}",
            key=f"corrections.{name}",
            way_out=WAY_OUT.format(name=name),
        )
    applied[name] = f"left out: no {what}"
    warnings.append(f"{name} left out: no {what}")
    return False
