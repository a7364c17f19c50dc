"""The measurements of sources, one module each; see `mpipipe.stages.sfm.measurement`."""
