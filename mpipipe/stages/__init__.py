"""Pipelines as lists of stages: values in, values out; no MPI, no files."""
