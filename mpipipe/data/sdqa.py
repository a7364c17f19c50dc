"""SDQA metrics: named numbers that stages measure about the data on the way."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Metric:
    """One measured number.

    Attributes
    ----------
    name
        Dotted name, the stage first: ``isr.overscan.level``.
    value
        The number; NaN when it could not be measured.
    unit
        Its unit in astropy's spelling, e.g. ``adu``, ``electron``, ``pixel``; empty if none.
    channel
        The channel it belongs to; empty for the whole CCD.
    snap
        The snap it belongs to; -1 for all together.
    """

    name: str
    value: float
    unit: str = ""
    channel: str = ""
    snap: int = -1


@dataclass
class Sdqa:
    """The metrics of one task, in the order in which they were measured."""

    metrics: list[Metric] = field(default_factory=list)

    def add(
        self, name: str, value: float, unit: str = "", *, channel: str = "", snap: int = -1
    ) -> None:
        """Record one number."""
        self.metrics.append(Metric(name, float(value), unit, channel, snap))

    def get(self, name: str, *, channel: str = "", snap: int = -1) -> float:
        """The value recorded under exactly this name, channel and snap.

        Raises
        ------
        KeyError
            If there is none.
        """
        for metric in self.metrics:
            if (metric.name, metric.channel, metric.snap) == (name, channel, snap):
                return metric.value
        raise KeyError(f"no metric {name!r} for channel {channel!r}, snap {snap}")
