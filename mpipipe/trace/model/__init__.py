"""What a run takes on any number of ranks: terms fitted to the events of measured runs."""
