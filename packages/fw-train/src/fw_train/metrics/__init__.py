"""Metrics of one generated world against ground truth: image, depth, camera, consistency and distribution metrics."""
