"""The `fw-data annotate` pipeline: scan videos for shots, run the workers, pack shards, and account for every clip."""
