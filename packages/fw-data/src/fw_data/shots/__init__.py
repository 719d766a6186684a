"""Shot boundary detection: hard cuts, fades and black stretches, and the windows that become clips."""
