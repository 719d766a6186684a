"""Modules that importing the library loads, measured in a fresh process."""

import subprocess
import sys

_EVERYTHING = """
import sys
import fw_model
bare = {"torch", "numpy", "diffusers"} & set(sys.modules)
for name in fw_model.__all__:
    getattr(fw_model, name)
import fw_model.export, fw_model.checkpoints.checkpoint, fw_model.autoencoders.registry, fw_model.encoders.registry
import fw_model.losses.losses
print(sorted(bare), sorted({"ray", "fastapi", "tyro", "diffusers", "transformers", "av"} & set(sys.modules)))
"""


def test_the_library_brings_in_no_servers_and_nothing_heavy_before_it_is_used():
    out = subprocess.run([sys.executable, "-c", _EVERYTHING], capture_output=True, text=True, check=True).stdout
    assert out == "[] []\n"
