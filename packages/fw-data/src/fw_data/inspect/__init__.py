"""Looking at a finished dataset: validation, statistics, contact sheets, comparison with ground truth, dataset card."""
