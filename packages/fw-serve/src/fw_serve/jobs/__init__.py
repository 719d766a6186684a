"""Jobs that last: what a job is, the one store that every process shares, and the keys that own jobs."""
