"""Values: cameras, raw frames, exposures, masks, tables. No files, no MPI."""
