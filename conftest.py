"""Repository-wide pytest setup: array shapes are checked with beartype, and property tests are reproducible."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from hypothesis import settings
from jaxtyping import install_import_hook

settings.register_profile("house", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("house")

for _package in ("fw_geometry", "fw_model", "fw_data", "fw_toy", "fw_train"):
    install_import_hook(_package, "beartype.beartype").__enter__()
