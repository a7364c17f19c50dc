"""What a run's own products say about its quality: metrics with intervals against requirements."""
