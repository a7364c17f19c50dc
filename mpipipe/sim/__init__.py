"""Raw data with truth: sky, optics, detector."""
