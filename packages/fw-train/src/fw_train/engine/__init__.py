"""The training loop and its services: checkpoints, optimizer, distributed context, throughput, logs and signals."""
