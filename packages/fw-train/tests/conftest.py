"""What the tests share: a regression task for the loop, a mini world, and a small dataset of slanted walls."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from fw_data.dataset.clip import Cameras, pack_clip
from fw_data.dataset.clip_order import Draw
from fw_data.dataset.manifest import write_manifest
from fw_data.dataset.reader import ClipDataset
from fw_data.dataset.schema import ClipRecord
from fw_data.dataset.shards import ShardWriter
from fw_geometry import unproject
from fw_model.autoencoders.block_dct import BlockDCT
from fw_model.config import CameraConfig, CrossBranchConfig, GeometryConfig, VideoConfig, WorldConfig
from fw_model.encoders.hashing import HashTextEncoder
from fw_model.export import export_world
from fw_model.model.model import FantasyWorld
from fw_model.pipeline.pipeline import WorldPipeline
from fw_model.pipeline.result import World
from fw_model.pipeline.settings import Sampling
from fw_model.sampling.flow import counter_noise
from fw_train.config.schema import Cadence, OptimConfig, TrainConfig
from fw_train.data.order import ClipOrder
from fw_train.metrics.truth import load_truth


class Regression:
    """Learns y = A x from noisy inputs; `poison` makes the loss of one step NaN."""

    prefetch = 0

    def __init__(self, seed: int = 0, poison: int = -1, clips: int = 10, held_out: int = 0) -> None:
        self.order = ClipOrder(clips=clips, held_out=held_out)
        generator = torch.Generator().manual_seed(100)
        self.truth = torch.randn(3, 6, generator=generator)
        self.inputs = torch.randn(self.order.clips, 6, generator=generator)
        self.module: nn.Module = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
        self.module.requires_grad_(True)
        start = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.module.parameters():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=start))
        self.seed, self.poison = seed, poison
        dataset = self.dataset_digest(self.order.clips, self.order.held_out)
        self.identity: Mapping[str, str] = {"config": "c", "dataset": dataset}

    def dataset_digest(self, train: int, held_out: int) -> str:
        return f"{train} and {held_out}"

    def announce(self, draws: Sequence[Draw]) -> None:
        raise AssertionError(f"no draws are announced with prefetch 0: {draws}")

    def tokens(self, draw: Draw) -> int:
        return int(draw.clip >= 0)

    def loss(self, step: int, draws: Sequence[Draw]) -> Mapping[str, Tensor]:
        noise = torch.stack([counter_noise(self.seed, step, d.slot, (6,)) for d in draws])
        x = self.inputs[[d.clip for d in draws]] + 0.1 * noise
        error = (self.module(x) - x @ self.truth.T).square().mean()
        return {"loss": error * (float("nan") if step == self.poison else 1.0), "loss/error": error}

    def validate(self) -> Mapping[str, float]:
        return {"loss": float((self.module(self.inputs) - self.inputs @ self.truth.T).square().mean())}

    def sample(self, path: Path | None) -> list[str]:
        if path is not None:
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (4, 3)).save(path)
        return ["a.mp4: the caption is too long"]

    def describe(self, draw: Draw) -> str:
        return f"clip-{draw.clip}"


@pytest.fixture
def regression() -> type[Regression]:
    return Regression


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    """24 steps of four samples with a checkpoint every five and an average of the weights."""
    return TrainConfig(
        steps=24,
        batch=4,
        out=tmp_path / "run",
        optim=OptimConfig(lr=0.02, warmup=3, ema=0.9, schedule="cosine"),
        every=Cadence(log=4, validate=12, checkpoint=5, keep=2),
    )


def mini_world() -> WorldConfig:
    """The smallest world that has every part."""
    return WorldConfig(
        name="mini",
        video=VideoConfig(dim=24, heads=2, ffn_dim=32, blocks=3, in_dim=32, text_dim=12, text_len=6, freq_dim=16),
        geometry=GeometryConfig(
            width=16,
            heads=2,
            mlp_ratio=2,
            freq_dim=16,
            dpt_taps=(1, 1, 0, 0),
            num_register_tokens=2,
            camera_trunk=1,
            camera_heads=2,
            camera_iterations=2,
            dpt_features=8,
            dpt_channels=(8, 8, 8, 8),
            dpt_hidden=8,
        ),
        cross_branch=CrossBranchConfig(dim=24, heads=2),
        camera=CameraConfig(adapter_blocks=2, feature_dim=40, channels=8),
        pcb_blocks=1,
    )


@pytest.fixture(scope="session")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JSON file of the mini world, for `--model`."""
    path = tmp_path_factory.mktemp("world") / "mini.json"
    path.write_text(mini_world().to_json())
    return path


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Twelve clips of seven 32x48 frames: a camera that slides past a slanted striped wall. Not to be written into."""
    root = tmp_path_factory.mktemp("data")
    with ShardWriter(root / "shards" / "000000.tar") as writer:
        records = [_add_clip(writer, index) for index in range(12)]
    write_manifest(root / "manifest.parquet", records)
    made = sorted(root.rglob("*"))
    yield root
    assert sorted(root.rglob("*")) == made, "a test wrote into the data set that all of them read"


def _add_clip(writer: ShardWriter, index: int, frames: int = 7, height: int = 32, width: int = 48) -> ClipRecord:
    """A wall z = distance + slope * x in world axes, colored by its x and y, exact depth by intersection."""
    rng = np.random.default_rng(index)
    distance, slope, speed, frequency = rng.uniform((2, -0.4, -0.2, 2), (4, 0.4, 0.2, 6))
    K = np.tile(np.array([[40.0, 0, width / 2], [0, 40, height / 2], [0, 0, 1]]), (frames, 1, 1))
    pose = np.tile(np.eye(4), (frames, 1, 1))
    pose[:, 0, 3] = speed * np.arange(frames)
    column, row = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    ray_x, ray_y = (column - width / 2) / 40, (row - height / 2) / 40
    shift = pose[:, 0, 3, None, None]
    depth = (distance + slope * shift) / (1 - slope * ray_x)
    wall = np.stack([shift + ray_x * depth, ray_y * depth], axis=-1)
    color = 0.5 + 0.5 * np.sin(frequency * wall @ rng.normal(size=(2, 3)))
    cameras = Cameras(
        K=K,
        pose_c2w=pose,
        pose_confidence=np.ones(frames, np.float32),
        frame_index=np.arange(frames),
        time_s=np.arange(frames) / 8,
    )
    record = ClipRecord(
        id=f"clip-{index:02d}",
        source=f"wall-{index:02d}.mp4",
        source_sha256=hashlib.sha256(bytes([index])).hexdigest(),
        source_width=width,
        source_height=height,
        start_frame=0,
        num_frames=frames,
        start_time_s=0,
        fps=8,
        width=width,
        height=height,
        caption=f"a striped wall, number {index}",
        units="scene",
        backend="oracle",
        backend_version="1",
        config_hash="0",
        grade="A",
    )
    files = pack_clip(
        record,
        video=(color * 255).astype(np.uint8),
        depth_m=depth.astype(np.float32),
        confidence=np.ones(depth.shape, np.float32),
        cameras=cameras,
        crf=8,
    )
    members = writer.add(record.id, files)
    return record.model_copy(update={"shard": "shards/000000.tar", "members": members})


@pytest.fixture(scope="session")
def checkpoint(mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mini world of random weights that generates five frames of 32x48 in one step, as a pipeline folder."""
    config = WorldConfig.from_json(mini.read_text())
    text = HashTextEncoder(text_len=config.video.text_len, text_dim=config.video.text_dim)
    sampling = Sampling(num_frames=5, height=32, width=48, num_inference_steps=1, guidance_scale=1.0)
    pipeline = WorldPipeline(FantasyWorld(config, seed=0), BlockDCT(), text, sampling=sampling)
    return pipeline.save(tmp_path_factory.mktemp("checkpoint") / "export")


@pytest.fixture
def perfect_worlds() -> Callable[..., Path]:
    return _perfect_worlds


def _perfect_worlds(data: Path, folder: Path, clips: int = 3, change: Callable[[World], World] = lambda w: w) -> Path:
    """Worlds without fault (but for `change`) of the first clips, one folder each, as `fw generate` writes them."""
    dataset = ClipDataset(data)
    for record in dataset.records[:clips]:
        truth = load_truth(dataset, record.id, frames=5, height=32, width=48, min_confidence=0.3)
        path = truth.trajectory
        K, pose = torch.from_numpy(path.K).float(), torch.from_numpy(path.pose_c2w).float()
        sure = np.full(truth.depth.shape, 2, np.float32)
        world = World(
            video=truth.video,
            depth=truth.depth,
            depth_confidence=sure,
            points=unproject(torch.from_numpy(truth.depth), K, pose).numpy(),
            points_confidence=sure,
            trajectory=path,
            requested=path,
        )
        export_world(change(world), folder / record.id)
    return folder
