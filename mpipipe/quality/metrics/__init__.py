"""The metrics of the scorecard, one module each; see `mpipipe.quality.scorecard.metric`."""
