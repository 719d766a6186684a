"""Configuration of a training run: the typed tree, loading it from recipe, file and command line, and the recipes."""
