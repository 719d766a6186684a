"""The dataset on disk and in training: record schema, shards and manifest; reading, transforming and ordering clips."""
