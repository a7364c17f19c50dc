"""Pipeline sa: source association, from the measurements of all visits to objects."""

from __future__ import annotations

from mpipipe.stages.sa.initialize import initialize
from mpipipe.stages.sa.output import output
from mpipipe.stages.sa.source_cluster_attributes import source_cluster_attributes
from mpipipe.stages.sa.source_clustering import source_clustering
from mpipipe.stages.stage import Stage

PIPELINE: tuple[Stage, ...] = (
    initialize,
    source_clustering,
    source_cluster_attributes,
    output,
)
