"""Prepared training samples: latents, first-frame condition, labels and cameras of a window of a clip.

A sample is a pure function of its clip and window, so it is cached; point maps and rays are recomputed for every batch,
which is cheaper than caching them. Worker processes can decode windows ahead (`clip.num_workers`).

Axes: b batch, c channels, f latent frames, y x latent rows and columns, F frames, H W pixels.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from fw_data.dataset.reader import ClipDataset
from fw_data.dataset.windows import LoadedWindow, Window, WindowLoader, load_window
from fw_geometry.rays import unproject
from fw_model.losses.targets import normalize_scene
from fw_train.config.schema import ClipConfig
from fw_train.data.latent_cache import LatentCache
from fw_train.data.rooms import RoomDataset
from fw_train.data.split import Shape, shapes_of
from fw_train.model_bundle import EncodedVideo, first_of


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One window of one clip, ready for any stage."""

    latents: Float[Tensor, "c f y x"]
    """Normalized latents of the window."""
    condition: Float[Tensor, "cy f y x"] | None
    """First-frame condition (the model's `y`); None if the model takes none."""
    image_tokens: Float[Tensor, "l d"] | None
    """CLIP tokens of the window's first frame; None if the model reads none."""
    depth: Float[Tensor, "F H W"] | None
    """z-depth in the clip's unit; 0 where it is invalid or masked. None where no loss reads it."""
    confidence: Float[Tensor, "F H W"] | None
    """Confidence of the depth, 0 to 1."""
    K: Float[Tensor, "F 3 3"]
    """Intrinsics in pixels of the window."""
    pose_c2w: Float[Tensor, "F 4 4"]
    """Camera-to-world, relative to the first frame of the window, in the clip's unit."""
    scale: float
    """Length of one unit of the normalized scene, in the clip's unit."""
    control: Float[Tensor, "k f y x"] | None = None
    """Input of a pooled control adapter; None where the model has none."""

    def nbytes(self) -> int:
        """Size in bytes."""
        values = (getattr(self, item.name) for item in fields(self))
        return sum(value.nbytes for value in values if isinstance(value, Tensor))


class SampleSource:
    """Prepares samples of a dataset and caches the latest ones in memory.

    Args:
        dataset: source of the clips.
        config: window size and masking.
        encode: maps video [1, 3, F, H, W] in [-1, 1] to latents and conditions, each [1, ...].
        latents: results of `fw-train encode`; a window found there is neither decoded nor encoded.
        control: maps K and normalized poses [1, F, ...] of a shape to the input of the pooled control adapter, if any.
        labels: keep depth and confidence, which only geometry losses read.
        shape_of: shape of the samples of a clip, by its id; by default that of `config`.
    """

    def __init__(
        self,
        dataset: ClipDataset | RoomDataset,
        config: ClipConfig,
        encode: Callable[[Tensor], EncodedVideo],
        latents: LatentCache | None = None,
        *,
        control: Callable[[Tensor, Tensor, Shape], Tensor] | None = None,
        labels: bool = True,
        shape_of: Callable[[str], Shape] | None = None,
    ) -> None:
        self.dataset, self.config, self.encode, self.latents = dataset, config, encode, latents
        self.control, self.labels = control, labels
        self._shape_of = shape_of or (lambda _clip: shapes_of(config)[0])
        self._loader = WindowLoader(dataset, workers=config.num_workers)
        self._coming: dict[tuple[str, int], Window] = {}
        self._kept: OrderedDict[tuple[str, int], Sample] = OrderedDict()
        self._bytes = 0

    def request(self, windows: Iterable[tuple[str, int]]) -> None:
        """Have worker processes decode windows (clip id, first frame) that are not cached."""
        for clip_id, start in windows:
            key = (clip_id, start)
            if self.config.num_workers and key not in self._kept and key not in self._coming:
                stored = self.latents is not None and start in self.latents.has(self.dataset.record(clip_id))
                self._coming[key] = self._window(clip_id, start, video=not stored)
                self._loader.request([self._coming[key]])

    def load(self, clip_id: str, start: int) -> Sample:
        """The window of a clip that begins at frame `start`."""
        key = (clip_id, start)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        sample = self._prepare(clip_id, start)
        self._kept[key] = sample
        self._bytes += sample.nbytes()
        while self._bytes > self.config.cache_gb * 2**30 and self._kept:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes()
        return sample

    def close(self) -> None:
        """Stop the worker processes."""
        self._loader.close()

    def _window(self, clip_id: str, start: int, *, video: bool) -> Window:
        config = self.config
        return Window(clip_id, start, *self._shape_of(clip_id), config.fps, video=video, masks=config.mask_moving)

    @torch.no_grad()
    def _prepare(self, clip_id: str, start: int) -> Sample:
        encoded = self.latents.read(self.dataset.record(clip_id), start) if self.latents else None
        window = self._coming.pop((clip_id, start), None) or self._window(clip_id, start, video=encoded is None)
        loaded = self._loader.load(window)
        if encoded is None:
            encoded = self._encode(clip_id, start, loaded)
        assert loaded.depth is not None, "the window asked for labels"
        assert loaded.cameras is not None, "the window asked for labels"
        depth, confidence = torch.from_numpy(loaded.depth), torch.from_numpy(loaded.confidence)
        trusted = confidence >= self.config.min_confidence
        if loaded.moving is not None:
            trusted &= ~torch.from_numpy(loaded.moving | loaded.sky)
        K = torch.from_numpy(loaded.cameras.K).float()
        pose_c2w = torch.from_numpy(loaded.cameras.relative_to_first().pose_c2w).float()
        depth = torch.where(trusted, depth, 0.0)
        scale, normalized = _normalized(depth, K, pose_c2w, self.config.scale_by_first_frame)
        return Sample(
            latents=encoded.latents,
            condition=encoded.condition,
            image_tokens=encoded.image_tokens,
            depth=depth if self.labels else None,
            confidence=confidence if self.labels else None,
            K=K,
            pose_c2w=pose_c2w,
            scale=scale,
            control=None if self.control is None else self.control(K[None], normalized, self._shape_of(clip_id))[0],
        )

    def _encode(self, clip_id: str, start: int, loaded: LoadedWindow) -> EncodedVideo:
        """Encode the images of a window; they are decoded now if its stored latents turned out to be damaged."""
        video = loaded.video
        if video is None:
            only_images = self._window(clip_id, start, video=True)._replace(labels=False, masks=False)
            video = load_window(self.dataset, only_images).video
        return first_of(self.encode(rearrange(torch.from_numpy(video), "F c H W -> 1 c F H W")))


def _normalized(
    depth: Float[Tensor, "F H W"], K: Float[Tensor, "F 3 3"], pose_c2w: Float[Tensor, "F 4 4"], first_frame_only: bool
) -> tuple[float, Float[Tensor, "1 F 4 4"]]:
    """Scale of a window and its poses in that unit, as in `geometry_targets`."""
    seen = slice(0, 1) if first_frame_only else slice(None)
    points = unproject(depth[None, seen], K[None, seen], pose_c2w[None, seen])
    scale = normalize_scene(depth[None, seen], points, pose_c2w[None, seen], depth[None, seen] > 0).scale
    poses = pose_c2w[None].clone()
    poses[..., :3, 3] /= scale
    return float(scale), poses
