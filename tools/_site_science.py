"""The pages of stages, measurements, metrics and tables, made from what is registered."""

from __future__ import annotations

from _site_markdown import code, codes, docstring, heading, table, text

from mpipipe.data.association import BAD_SOURCE, BAD_SOURCE_HIST, SOURCE, SOURCE_HIST, object_schema
from mpipipe.data.icsrc import ICMATCH, ICSRC
from mpipipe.data.mask import BIT, PLANES
from mpipipe.data.refcat import reference_schema
from mpipipe.data.schema import SDQA, Schema
from mpipipe.data.src import SNAP_SOURCE
from mpipipe.quality.scorecard.metric import GROUPS, metrics
from mpipipe.run import pipelines
from mpipipe.stages.sfm.forced_table import FORCED_SRC
from mpipipe.stages.sfm.measurement import registry
from mpipipe.stages.sfm.sky_rows import EXPOSURE_SRC
from mpipipe.stages.sfm.src_table import SRC
from mpipipe.stages.stage import Stage
from mpipipe.trace.eventfile import EVENTS

TITLES = {
    "isr": "Instrument signature removal; once a snap, all channels of a CCD.",
    "ca": "Assembly of a CCD; once a snap.",
    "cs": "Combination of the snaps of a visit.",
    "ic": "Image characterization: PSF, WCS and zero point.",
    "sfm": "Single frame measurement: sources, and forced photometry.",
    "sa": "Source association; once a cell of the sky.",
}
TABLES = (
    SRC, FORCED_SRC, object_schema(("g", "r")), SOURCE, BAD_SOURCE, SOURCE_HIST, BAD_SOURCE_HIST,
    ICSRC, ICMATCH, SNAP_SOURCE, SDQA, reference_schema(("r",)), EVENTS,
)  # fmt: skip


def list_stages() -> str:
    """Every stage: what it does, needs and adds."""
    parts = []
    for name, chain in pipelines.PIPELINES.items():
        title = heading(2, code(name))
        parts += [title, f"{TITLES[name]}\n", *map(stage_part, chain)]
    return "\n".join(parts)


def stage_part(stage: Stage) -> str:
    """One stage."""
    notes = [f"Needs {codes(stage.needs)}", f"adds {codes(stage.adds)}"]
    if stage.always:
        notes.append("can not be switched off")
    if stage.fallback is not None:
        notes.append("if it fails, later stages go on without what it makes")
    options = f"[options](options.md#{stage.name.replace('.', '').lower()})"
    where = f"module {code(stage.run.__module__)}"
    return "\n".join(
        (heading(3, code(stage.name)), docstring(stage.run), "",
         "; ".join((*notes, options, where)) + ".\n")
    )  # fmt: skip


def list_measurements() -> str:
    """Every measurement of sources, with its columns."""
    parts = []
    for one in registry().values():
        after = f"After {codes(one.after)}.\n" if one.after else ""
        parts += [heading(2, code(one.name)), docstring(one.run) + "\n", after]
        parts.append(columns_table(one.all_columns))
    return "\n".join(parts)


def list_metrics() -> str:
    """Every metric of the scorecard."""
    parts = []
    for group in GROUPS:
        parts.append(heading(2, group[0].upper() + group[1:]))
        for one in metrics():
            if one.group == group:
                truth = " Needs truth." if one.needs_truth else ""
                parts.append(heading(3, f"{code(one.name)} {text(one.title)}"))
                parts.append(text(one.definition) + truth + "\n")
    return "\n".join(parts)


def list_tables() -> str:
    """Every column of every table."""
    parts = [table_part(schema) for schema in TABLES]
    more = [column for column in EXPOSURE_SRC.columns if column not in SRC.columns]
    parts.insert(1, "In a folder of `mpipipe process` there are besides:\n\n" + columns_table(more))
    planes = table(
        ("plane", "bit", "says"),
        ((code(name), str(BIT[name]), text(words)) for name, words in PLANES.items()),
    )
    return "\n".join((*parts, heading(2, "Planes of the mask"), planes))


def table_part(schema: Schema) -> str:
    """One table."""
    title = heading(2, code(schema.name))
    return "\n".join((title, text(schema.description) + ".\n", columns_table(schema.columns)))


def columns_table(columns: object) -> str:
    """Columns with type, unit and meaning."""
    return table(
        ("column", "type", "unit", "what", "UCD"),
        ((code(one.name), code(one.dtype), text(one.unit), text(one.description), code(one.ucd))
         for one in columns),
    )  # fmt: skip
