"""The checkpoint: one HDF5 file an incarnation, into which every rank writes its records.

docs/checkpoint-format.md describes it to the byte.
"""
