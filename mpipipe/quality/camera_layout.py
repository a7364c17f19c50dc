"""A picture of a camera: its focal plane, and for each type of CCD its channels."""

from __future__ import annotations

import io
import textwrap
from typing import TYPE_CHECKING

from mpipipe.data.camera import Camera, Channel, DetectorType
from mpipipe.data.sections import Section

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = {"data": "#cfe3f2", "bias": "#f2b8a0", "parallel": "#f5e0a3"}
_EDGE = "#30475e"


def draw_camera(camera: Camera) -> bytes:
    """Draw a camera as a PNG.

    One panel shows the focal plane; two more for each type of CCD show where its channels lie,
    with an arrow along the read-out rows from the first pixel read, and one raw channel with
    its bias sections.

    Returns
    -------
    bytes
        The PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    kinds = list(camera.types.items())
    figure = Figure(figsize=(15, 5.2 * len(kinds)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(kinds), 3, squeeze=False)
    for row, (name, kind) in zip(panels, kinds, strict=True):
        _focal_plane(row[0], camera, name)
        _channels(row[1], name, kind)
        _raw_channel(row[2], kind.channels[0])
    figure.suptitle(f"{camera.name}: {camera.description}")
    buffer = io.BytesIO()
    # Without the software's name and version, the same camera gives the same file.
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def _focal_plane(axes: Axes, camera: Camera, type_name: str) -> None:
    from matplotlib.patches import Rectangle

    for detector in camera.detectors:
        kind = camera.type_of(detector)
        width, height = (n * kind.pixel_size_um / 1000.0 for n in _size(kind))
        own = detector.type == type_name
        axes.add_patch(
            Rectangle(
                (detector.x_mm - width / 2, detector.y_mm - height / 2),
                width,
                height,
                angle=detector.rotation_deg,
                rotation_point="center",
                facecolor=_COLOURS["data"] if own else "none",
                edgecolor=_EDGE,
                linewidth=0.6,
            )
        )
        size = 8.0 if len(camera.detectors) <= 12 else 3.5
        axes.text(
            detector.x_mm, detector.y_mm, detector.name, ha="center", va="center", fontsize=size
        )
    axes.set_title("focal plane")
    axes.set_xlabel("x, mm")
    axes.set_ylabel("y, mm")
    axes.set_aspect("equal")
    axes.autoscale_view()


def _channels(axes: Axes, name: str, kind: DetectorType) -> None:
    from matplotlib.patches import Rectangle

    nx, ny = _size(kind)
    axes.add_patch(Rectangle((0, 0), nx, ny, facecolor="none", edgecolor=_EDGE))
    if all(channel.detsec is None for channel in kind.channels):
        names = textwrap.fill(", ".join(channel.name for channel in kind.channels), 32)
        axes.text(nx / 2, ny / 2, f"{names}\nplaces stand in the header", ha="center", va="center")
    for channel in kind.channels:
        if channel.detsec is not None:
            _one_channel(axes, channel, channel.detsec)
    axes.set_title(f"type {name} as assembled (arrow: read-out of a row)")
    axes.set_xlabel("x, pixels")
    axes.set_ylabel("y, pixels")
    axes.set_xlim(-0.02 * nx, 1.02 * nx)
    axes.set_ylim(-0.02 * ny, 1.02 * ny)
    axes.set_aspect("equal")


def _one_channel(axes: Axes, channel: Channel, place: Section) -> None:
    from matplotlib.patches import Rectangle

    ny, nx = place.shape
    axes.add_patch(
        Rectangle((place.x0, place.y0), nx, ny, facecolor=_COLOURS["data"], edgecolor=_EDGE)
    )
    axes.text(
        place.x0 + nx / 2, place.y0 + ny / 2, channel.name, ha="center", va="center", fontsize=8
    )
    start = place.x1 - 0.08 * nx if place.flip_x else place.x0 + 0.08 * nx
    y = place.y1 - 0.06 * ny if place.flip_y else place.y0 + 0.06 * ny
    axes.annotate(
        "",
        xy=(start + (-0.6 if place.flip_x else 0.6) * nx, y),
        xytext=(start, y),
        arrowprops={"arrowstyle": "->", "color": "#b03a2e"},
    )


def _raw_channel(axes: Axes, channel: Channel) -> None:
    from matplotlib.patches import Rectangle

    parts = (
        ("data", channel.datasec),
        ("bias", channel.biassec),
        ("parallel", channel.parallel_biassec),
    )
    known = [(what, section) for what, section in parts if section is not None]
    axes.set_title(f"raw channel {channel.name}")
    if not known:
        axes.text(0.5, 0.5, "sections stand in the header", ha="center", va="center")
        axes.set_axis_off()
        return
    for what, section in known:
        ny, nx = section.shape
        axes.add_patch(
            Rectangle(
                (section.x0, section.y0),
                nx,
                ny,
                facecolor=_COLOURS[what],
                edgecolor=_EDGE,
                label=f"{what} {section}",
            )
        )
    nx = max(section.x1 for _, section in known)
    ny = max(section.y1 for _, section in known)
    if channel.raw_size is not None:
        nx, ny = channel.raw_size
        axes.add_patch(Rectangle((0, 0), nx, ny, facecolor="none", edgecolor=_EDGE, ls=":"))
    axes.set_xlim(-0.03 * nx, 1.03 * nx)
    axes.set_ylim(-0.03 * ny, 1.03 * ny)
    axes.set_xlabel("column")
    axes.set_ylabel("row")
    axes.legend(loc="center", fontsize=8)


def _size(kind: DetectorType) -> tuple[int, int]:
    """The size of a CCD; a square of 1000 where it differs from file to file."""
    return kind.size if max(kind.size) <= 50_000 else (1000, 1000)
