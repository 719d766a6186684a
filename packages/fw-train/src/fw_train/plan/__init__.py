"""The `fw-train plan` command: parameters, FLOPs, memory and time of a run, computed on the meta device."""
