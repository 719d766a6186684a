"""The `fw-train worldscore` command: the static subset of WorldScore, in that benchmark's own layout."""
