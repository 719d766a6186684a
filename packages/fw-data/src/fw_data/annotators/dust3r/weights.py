"""Loading the pair network: released checkpoints as safetensors, with their license.

Released files store four tensors of each DPT head under two names; both, one, or only the second may be in a file.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from fw_data.annotators.checkpoints import Release, check_names, locate, read, settings_beside
from fw_data.annotators.dust3r import LICENSE
from fw_data.annotators.dust3r.network import Dust3rConfig, Dust3rNetwork, config_of

RELEASES = {
    name: Release(name=name, hub_id=f"naver/DUSt3R_ViTLarge_BaseDecoder_{name}", license=LICENSE, permissive=False)
    for name in ("512_dpt", "512_linear", "224_linear")
}
"""The released checkpoints by the end of their names. The code that runs them is ours; the weights are not."""
DEFAULT_RELEASE = "512_dpt"
LONG_SIDE = {"512_dpt": 512, "512_linear": 512, "224_linear": 224}
"""Image size each was trained on."""


def load_dust3r(
    source: str | Path | None = None, *, release: str = DEFAULT_RELEASE, device: str = "cpu"
) -> Dust3rNetwork:
    """The network with the weights of a safetensors file, a folder, or a hub id (the release's own if None).

    Sizes are read from the tensors; a config.json beside them may say `encoder_heads` and `decoder_heads` where a head
    is not 64 wide.

    Raises:
        WeightsMissing: no weights there, or those of another network; the message gives the fix.
    """
    if release not in RELEASES:
        raise ValueError(f"DUSt3R release {release!r} is unknown; choose one of {', '.join(RELEASES)}")
    path = locate(RELEASES[release].hub_id if source is None else source, RELEASES[release])
    state = plain_names(read(path))
    config = config_of(_shapes(state))
    heads = {key: value for key, value in settings_beside(path).items() if key in ("encoder_heads", "decoder_heads")}
    config = Dust3rConfig(**{**vars(config), **heads})
    with torch.device("meta"):
        network = Dust3rNetwork(config)
    check_names(_shapes(state), _shapes(network.state_dict()), path, "a DUSt3R network")
    network.load_state_dict({name: value.float() for name, value in state.items()}, assign=True)
    return network.to(device).eval().requires_grad_(False)


def plain_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One name per tensor: second names dropped, and a missing second decoder filled with copies of the first."""
    plain = {name: value for name, value in state.items() if ".scratch.layer_rn." not in name}
    for name, value in state.items():
        again = re.sub(r"\.scratch\.layer_rn\.(\d)\.", lambda m: f".scratch.layer{int(m[1]) + 1}_rn.", name)
        plain.setdefault(again, value)
    if not any(name.startswith("dec_blocks2.") for name in plain):
        copies = {name.replace("dec_blocks.", "dec_blocks2."): value for name, value in plain.items()}
        plain |= {name: value.clone() for name, value in copies.items() if name.startswith("dec_blocks2.")}
    return plain


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in state.items()}
