"""Reference catalogues: any number of stars in shards by place on the sky, of which a task reads
the few that its field touches.

- `cells`: HEALPix cells;
- `index`: what lies in which shard;
- `reading`: the stars of a cone;
- `ingest`: from tables of any size to shards, in bounded memory;
- `sources`: tables in the formats that catalogues come in;
- `columns`: what their columns mean.
"""
