"""The only layer that opens files: raw frames, FITS, HDF5, records, products."""
