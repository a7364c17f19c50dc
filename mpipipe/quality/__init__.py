"""Metrics, plots, comparison with truth."""
