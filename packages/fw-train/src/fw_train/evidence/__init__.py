"""The `fw-train evidence` command: trained weights and ablations measured against exact ground truth."""
