"""The scorecard as one page of HTML with its pictures inside."""
