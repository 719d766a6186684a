"""FantasyWorld: one denoising pass that gives the video's velocity and, from the same features, its geometry.

Axes: b batch, c channels, f latent frames, y x latent rows and columns (h = y / 2, w = x / 2 token rows and columns),
l = f h w video tokens, F = 4 (f - 1) + 1 output frames, H = 8 y and W = 8 x output pixels.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fw_geometry.rays import pack_plucker
from fw_model.config import PATCH, WorldConfig
from fw_model.geometry.block import GeometryBlock
from fw_model.geometry.branch import GeometryBranch, GeometryOutput, join_features
from fw_model.geometry.dpt import DPTHead
from fw_model.layers.attention import AttentionModule, Backend, check_backend
from fw_model.layers.declarations import Group, declared_group, declared_part, initialize
from fw_model.layers.offload import BlockOffloader, BlockStream
from fw_model.layers.recompute import HostActivations, Recompute, recomputed
from fw_model.layers.rope import VideoRope
from fw_model.model.conditioning import Conditioning, check_grid, check_inputs
from fw_model.model.irg import CrossBranchStep, IRGBlock, build_video_block
from fw_model.model.rays import RayMap, check_rays
from fw_model.parallel.sequence import WHOLE, Layout, SequenceGroup, gather, make_layout, move, split
from fw_model.wan.blocks import ContextKV, ContextTokens, VideoStep, WanBlock
from fw_model.wan.camera_adapter import CameraAdapter, PoseEncoder
from fw_model.wan.embeddings import WanEmbeddings, unpatchify

if TYPE_CHECKING:
    from fw_model.lora.apply import LoadedLora


@dataclass(frozen=True, kw_only=True)
class WorldOutput:
    """Result of one forward pass."""

    velocity: Float[Tensor, "b c f y x"]
    """Flow-matching velocity, noise - clean; an Euler step is x + velocity * (sigma_next - sigma)."""
    geometry: GeometryOutput | None
    """Depth, points and poses; None when they were not asked for."""


class FantasyWorld(nn.Module):
    """The dual-branch model of the paper: preconditioning blocks, then integrated reconstruction and generation.

    Args:
        config: sizes and choices; see `fw_model.config` for the presets.
        seed: the random weights are a function of it. On the meta device nothing is filled in.
    """

    def __init__(self, config: WorldConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.checkpointing: Recompute = "none"
        self._block_inputs: HostActivations | None = None
        self._stream: BlockStream | None = None
        self._sequence: SequenceGroup | None = None
        device = torch.get_default_device()
        with torch.device("meta"):
            self.video = WanEmbeddings(config.video, rounding=config.compat.timestep_rounding)
            self.pcb = nn.ModuleList([build_video_block(config, i) for i in range(config.pcb_blocks)])
            self.irg = nn.ModuleList([IRGBlock(config, i) for i in range(config.irg_blocks)])
            self.geometry = GeometryBranch(config)
            self.pose_encoder = None if config.camera is None else PoseEncoder(config.camera, config.video.dim)
            self.video_rope = VideoRope(config.video.dim // config.video.heads)
            self.cross_branch_rope = VideoRope(config.cross_branch.dim // config.cross_branch.heads)
        if device.type != "meta":
            self._apply(lambda t: torch.empty(t.shape, dtype=t.dtype, device=device) if t.is_meta else t.to(device))
            initialize(self, seed)

    @property
    def follows_camera(self) -> bool:
        """Whether the camera path changes the video: through a control adapter, or through trained camera adapters."""
        if self.video.control_adapter is not None:
            return True
        adapters = [module for module in self.modules() if isinstance(module, CameraAdapter)]
        last_layers = [adapter.to_shift[-1] for adapter in adapters]
        return any(bool(weight.any()) for layer in last_layers for weight in layer.parameters())  # new ones are zero

    def forward(
        self,
        latents: Float[Tensor, "b c f y x"],
        timestep: Float[Tensor, " b"],
        *,
        condition: Conditioning | None = None,
        context: Float[Tensor, "b t text"] | None = None,
        y: Float[Tensor, "b cy f y x"] | None = None,
        clip_feature: Float[Tensor, "b i clip"] | None = None,
        plucker: RayMap | None = None,
        control: Float[Tensor, "b k f y x"] | None = None,
        poses: Float[Tensor, "b F 9"] | None = None,
        predict_geometry: bool = True,
        dense_frames: Sequence[int] | None = None,
        cross_branch: bool = True,
    ) -> WorldOutput:
        """One pass over both branches.

        Args:
            latents: noisy normalized latents.
            timestep: 0..1000 per sample.
            condition: from `encode_condition`, in place of the raw inputs that follow.
            context, y, clip_feature, plucker, control, poses: see `encode_condition`.
            predict_geometry: run the heads.
            dense_frames: ascending output frames to predict depth and points of; None: all.
            cross_branch: let the branches attend to each other as set by `config.cross_branch.direction`; False is the
                plain video model beside an independent geometry branch.

        Raises:
            ValueError: an input is missing, not read by this model, of the wrong size, or rays of another convention.
            TypeError: `plucker` is not a `RayMap`.
        """
        # embed the conditions, the noisy latents and the timestep
        condition = self._condition(condition, context, y, clip_feature, plucker, control, poses)
        grid = self._grid(latents, timestep, condition)
        layout = make_layout(self._sequence, *grid, self.geometry.num_special_tokens)
        video, time, step = self._start(latents, timestep, condition, grid, layout)
        # preconditioning blocks: video alone
        for i, block in enumerate(self.pcb):
            video = self._run(block, video, step, condition.block(i))
        # the geometry branch runs if its output is wanted, or if the video reads it
        direction = self.config.cross_branch
        cross_branch = cross_branch and (direction.video_reads or (direction.geometry_reads and predict_geometry))
        both = predict_geometry or cross_branch
        geometry = self._enter(video, grid, layout, condition.pose_tokens) if both else None
        steps = self.geometry.steps(self._rounded(timestep), *grid, layout) if both else None
        cross_step = self._cross_branch_step(grid, layout) if cross_branch else None
        # integrated reconstruction and generation: both branches, layer by layer
        features: dict[int, Tensor] = {}
        for i, block in enumerate(self.irg):
            out = self._run(
                block,
                video,
                geometry,
                video_step=step,
                context=condition.block(len(self.pcb) + i),
                geometry_steps=steps,
                cross_branch_step=cross_step,
            )
            video, geometry = out.video, out.geometry
            if predict_geometry and self._is_tapped(i):
                features[i] = join_features(out.frame, out.geometry)
        # heads: velocity of the video; depth, points and poses from the tapped layers
        velocity = unpatchify(gather(self.video.head(video, time), layout.video), *grid)
        maps = self.geometry.predict(features, *grid[1:], dense_frames, layout.frames) if predict_geometry else None
        return WorldOutput(velocity=velocity.to(latents.dtype), geometry=maps)

    def forward_geometry(
        self,
        latents: Float[Tensor, "b c f y x"],
        timestep: Float[Tensor, " b"],
        *,
        condition: Conditioning | None = None,
        context: Float[Tensor, "b t text"] | None = None,
        y: Float[Tensor, "b cy f y x"] | None = None,
        clip_feature: Float[Tensor, "b i clip"] | None = None,
        plucker: RayMap | None = None,
        control: Float[Tensor, "b k f y x"] | None = None,
        poses: Float[Tensor, "b F 9"] | None = None,
        dense_frames: Sequence[int] | None = None,
    ) -> GeometryOutput:
        """Stage 1: preconditioning blocks without gradients, then the geometry branch alone.

        The video blocks after them, the video head and the cross-branch attention are never executed. Takes the
        arguments of `forward`; equals the geometry of `forward(cross_branch=False)`.
        """
        with torch.no_grad():
            condition = self._condition(condition, context, y, clip_feature, plucker, control, None)
            grid = self._grid(latents, timestep, condition)
            layout = make_layout(self._sequence, *grid, self.geometry.num_special_tokens)
            video, _, step = self._start(latents, timestep, condition, grid, layout)
            for i, block in enumerate(self.pcb):
                video = self._run(block, video, step, condition.block(i))
        tokens = condition.pose_tokens if poses is None else self.geometry.tokens.from_poses(poses.to(video.dtype))
        geometry = self._enter(video, grid, layout, tokens)
        steps = self.geometry.steps(self._rounded(timestep), *grid, layout)
        features: dict[int, Tensor] = {}
        for i, block in enumerate(self.irg):
            out = self._run(block, None, geometry, geometry_steps=steps)
            geometry = out.geometry
            if self._is_tapped(i):
                features[i] = join_features(out.frame, out.geometry)
        return self.geometry.predict(features, *grid[1:], dense_frames, layout.frames)

    def encode_condition(
        self,
        *,
        context: Float[Tensor, "b t text"],
        y: Float[Tensor, "b cy f y x"] | None = None,
        clip_feature: Float[Tensor, "b i clip"] | None = None,
        plucker: RayMap | None = None,
        control: Float[Tensor, "b k f y x"] | None = None,
        poses: Float[Tensor, "b F 9"] | None = None,
        cache: bool = True,
    ) -> Conditioning:
        """Embed the inputs that are constant over the steps of a sample.

        Args:
            context: text encoder's output, padded with zeros to the model's text length.
            y: channels beside the noise (16: image latent in frame 0 and zeros; 20: mask before it).
            clip_feature: CLIP tokens of the first frame, for backbones that have an image branch.
            plucker: rays of all output frames, `downscale` times the latent's size, from `ray_map`; None: no camera.
            control: input of the control adapter as `control_input` makes it of Pluecker maps, in place of making it
                here; without `plucker` the camera adapters see no camera.
            poses: known pose encodings; their tokens take the place of the learned camera tokens.
            cache: compute keys and values of every block now (for sampling); False leaves them to the blocks.
        """
        dtype = self.video.patch_embedding.weight.dtype
        check_rays(self.config, plucker)
        rays = None if plucker is None else plucker.rays
        check_inputs(self.config, context=context, y=y, clip_feature=clip_feature, plucker=rays)
        embedded = self.video.embed_context(context.to(dtype), _cast(clip_feature, dtype))
        adapter = self.video.control_adapter
        if adapter is not None and control is None and plucker is not None:
            control = self.control_input(plucker)
        return Conditioning(
            context=tuple(self._project(b, embedded) for b in (*self.pcb, *self.irg)) if cache else embedded,
            y=_cast(y, dtype),
            camera=None if plucker is None or self.pose_encoder is None else self.pose_encoder(plucker.rays.to(dtype)),
            control=None if control is None or adapter is None else adapter(control.to(dtype)),
            pose_tokens=None if poses is None else self.geometry.tokens.from_poses(poses.to(dtype)),
        )

    def ray_map(
        self, K: Float[Tensor, "b F 3 3"], pose_c2w: Float[Tensor, "b F 4 4"], height: int, width: int
    ) -> RayMap:
        """Rays of cameras in this model's convention, for `plucker`; see `RayMap.from_cameras`."""
        return RayMap.from_cameras(self.config, K, pose_c2w, height, width)

    def control_input(self, plucker: RayMap) -> Float[Tensor, "b k f y x"]:
        """Pluecker maps as the control adapter reads them: packed by four frames, brought to the latent grid."""
        check_rays(self.config, plucker)
        adapter = self.video.control_adapter
        if adapter is None:
            raise ValueError(f"model {self.config.name!r} has no control adapter; omit control.")
        return adapter.prepare(pack_plucker(plucker.rays))

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        device: str | torch.device = "cpu",
        dtype: str | torch.dtype | None = None,
        preset: str | None = None,
        revision: str | None = None,
    ) -> "FantasyWorld":
        """Load a checkpoint folder or Hugging Face id; see `fw_model.checkpoints.checkpoint.load_world`."""
        from fw_model.checkpoints.checkpoint import load_world  # it builds models, so it imports this module

        return load_world(source, device=device, dtype=dtype, preset=preset, revision=revision)

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype | None = None) -> None:
        """Write config.json and model.safetensors; see `fw_model.checkpoints.checkpoint.save_world`."""
        from fw_model.checkpoints.checkpoint import save_world

        save_world(self, folder, dtype=dtype)

    def push_to_hub(
        self, repo: str, *, private: bool = False, revision: str | None = None, message: str = "Upload model"
    ) -> str:
        """Upload the folder of `save_pretrained` to the hub; arguments as in `WorldPipeline.push_to_hub`."""
        from fw_model.checkpoints.sources import upload_folder

        return upload_folder(self.save_pretrained, repo, private=private, revision=revision, message=message)

    def load_video_backbone(self, source: str | Path) -> str:
        """Load a Wan transformer into the video branch; see `fw_model.checkpoints.checkpoint.load_video_backbone`."""
        from fw_model.checkpoints.checkpoint import load_video_backbone

        return load_video_backbone(self, source)

    def load_lora(
        self, source: str | Path, scale: float = 1.0, *, name: str | None = None, merge: bool = False
    ) -> "LoadedLora":
        """Put a LoRA file of any common layout on the video branch; see `fw_model.lora.load_lora`."""
        from fw_model.lora.apply import load_lora

        return load_lora(self, source, scale, name=name, merge=merge)

    def unload_lora(self, name: str | None = None) -> list[str]:
        """Remove one LoRA, or all; see `fw_model.lora.unload_lora`."""
        from fw_model.lora.apply import unload_lora

        return unload_lora(self, name)

    def parameters_of(self, group: Group) -> Iterator[nn.Parameter]:
        """Parameters of one training group.

        "video" is the video backbone, "geometry" is trained in stage 1 (bridge, tokens, geometry blocks, heads), and
        "cross_branch" is trained in stage 2 (attention between the branches, camera adapters, pose encoder).
        """
        return (parameter for name, parameter in self.named_parameters() if self.parameter_group(name) == group)

    def parameter_group(self, name: str) -> Group:
        """Training group of a parameter. ValueError if no module declares one."""
        return declared_group(self, name)

    def part_of(self, name: str) -> str | None:
        """Part of the network, for plans, of a parameter or submodule; None for a container of several parts."""
        return declared_part(self, name)

    def video_blocks(self) -> list[WanBlock]:
        """All blocks of the video backbone, first to last."""
        return [b for b in (*self.pcb, *(layer.video for layer in self.irg)) if isinstance(b, WanBlock)]

    def geometry_blocks(self) -> list[GeometryBlock]:
        """Frame and global blocks of every geometry layer, in the order in which they run."""
        pairs = ((layer.frame, layer.global_) for layer in self.irg if isinstance(layer, IRGBlock))
        return [block for pair in pairs for block in pair]

    def set_checkpointing(self, kind: Recompute, inputs: HostActivations | None = None) -> None:
        """Recompute blocks and head chunks in the backward pass instead of keeping their activations.

        Args:
            kind: "full"; "selective", which keeps the results of attention; or "none".
            inputs: keeps the tokens that enter the blocks in host memory; None: they stay on the device.
        """
        self.checkpointing, self._block_inputs = kind, inputs
        for module in self.modules():
            if isinstance(module, DPTHead):
                module.checkpointing = kind != "none"

    def set_attention_backend(self, backend: Backend) -> None:
        """Use one attention kernel everywhere ("auto" chooses by device and dtype). Raises ValueError if not here."""
        check_backend(backend)
        for module in self.modules():
            if isinstance(module, AttentionModule):
                module.backend = backend

    def set_sequence_group(self, group: SequenceGroup | None) -> None:
        """Divide the tokens of every sample over processes, which all call the model with the same inputs and get the
        same output; None: each process works alone.

        Raises:
            ValueError: an attention has fewer heads than there are processes.
        """
        self.check_sequence_group(group)
        self._sequence = group if group is not None and group.size > 1 else None

    def check_sequence_group(self, group: SequenceGroup | None) -> None:
        """Raise ValueError if `set_sequence_group` would refuse this group."""
        config = self.config
        heads = min(config.video.heads, config.geometry.heads, config.cross_branch.heads)
        if group is not None and group.size > heads:
            raise ValueError(
                f"model {config.name!r} has attention with {heads} heads, which cannot be divided over {group.size} "
                f"processes; use {heads} or fewer for a sample."
            )

    def set_head_chunk(self, latent_frames: int | None) -> None:
        """Latent frames that the dense heads work on at a time; None: all. Bounds memory, changes no result."""
        if latent_frames is not None and latent_frames < 1:
            raise ValueError(f"set_head_chunk: {latent_frames} latent frames; it takes at least 1, or None for all.")
        self.geometry.depth_head.chunk_frames = latent_frames
        self.geometry.point_head.chunk_frames = latent_frames

    def compile_blocks(self, **options: Any) -> None:
        """`torch.compile` every block on its own (regional compilation); options go to torch.compile."""
        for block in [*self.pcb, *self.irg]:
            block.compile(**options)

    def stream_blocks(
        self, offloader: BlockOffloader | None, *, ahead: int = 1, blocks: Sequence[nn.Module] | None = None
    ) -> None:
        """Copy blocks to the device while they run, and the next `ahead` ones in advance; None stops this.

        Everything else, such as the `non_block_modules`, must be on the device already. With gradients, the offloader
        must be one of frozen weights only, and the blocks must be recomputed (`set_checkpointing`).

        Args:
            offloader: brings the blocks.
            ahead: number of blocks to fetch in advance.
            blocks: consecutive blocks of `pcb` and `irg`; None: all.
        """
        if self._stream is not None:
            self._stream.clear()
        chosen = [*self.pcb, *self.irg] if blocks is None else blocks
        self._stream = BlockStream(offloader, chosen, ahead=ahead) if offloader is not None and chosen else None

    def non_block_modules(self) -> list[nn.Module]:
        """Everything but the blocks: embeddings, heads, pose encoder, rotary tables."""
        parts = (self.video, self.geometry, self.pose_encoder, self.video_rope, self.cross_branch_rope)
        return [part for part in parts if part is not None]

    def _condition(
        self,
        condition: Conditioning | None,
        context: Tensor | None,
        y: Tensor | None,
        clip_feature: Tensor | None,
        plucker: RayMap | None,
        control: Tensor | None,
        poses: Tensor | None,
    ) -> Conditioning:
        raw: dict[str, object] = {"context": context, "y": y, "clip_feature": clip_feature, "plucker": plucker}
        raw |= {"control": control, "poses": poses}
        given = [name for name, value in raw.items() if value is not None]
        if condition is not None:
            if given:
                raise ValueError(f"Give either condition or raw inputs, not both; got condition and {given}.")
            return condition
        if context is None:
            raise ValueError("Give context (the text encoder's output), or condition from encode_condition.")
        return self.encode_condition(
            context=context, y=y, clip_feature=clip_feature, plucker=plucker, control=control, poses=poses, cache=False
        )

    def _start(
        self,
        latents: Tensor,
        timestep: Tensor,
        condition: Conditioning,
        grid: tuple[int, int, int],
        layout: Layout = WHOLE,
    ) -> tuple[Tensor, Tensor, VideoStep]:
        dtype = self.video.patch_embedding.weight.dtype
        channels = [latents.to(dtype)] if condition.y is None else [latents.to(dtype), condition.y]
        video = split(self.video.embed_latents(torch.cat(channels, dim=1), condition.control), layout.video)
        time, modulation = self.video.time(self._rounded(timestep))
        rotation = self.video_rope(*grid).part(layout.video)
        camera = None if condition.camera is None else split(condition.camera, layout.video)
        return video, time, VideoStep(modulation, rotation, camera, layout.video)

    def _enter(self, video: Tensor, grid: tuple[int, int, int], layout: Layout, poses: Tensor | None) -> Tensor:
        return self.geometry.enter(move(video, layout.video, layout.bridge), grid[0], poses, layout.frames)

    def _grid(self, latents: Tensor, timestep: Tensor, condition: Conditioning) -> tuple[int, int, int]:
        check_grid(self.config, latents, timestep, condition)
        frames, rows, columns = (n // p for n, p in zip(latents.shape[2:], PATCH, strict=True))
        return frames, rows, columns

    def _cross_branch_step(self, grid: tuple[int, int, int], layout: Layout = WHOLE) -> CrossBranchStep:
        video = self.cross_branch_rope(*grid)
        geometry = self.cross_branch_rope(*grid, num_special_tokens=self.geometry.num_special_tokens)
        return CrossBranchStep(video.part(layout.video), geometry.part(layout.geometry), layout.video, layout.geometry)

    def _rounded(self, timestep: Tensor) -> Tensor:
        exact = timestep.float()
        return exact.to(torch.bfloat16).float() if self.config.compat.timestep_rounding == "bf16" else exact

    def _is_tapped(self, layer: int) -> bool:
        return layer in self.config.geometry.dpt_taps or layer == len(self.irg) - 1

    def _run(self, block: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if self.checkpointing != "none" and torch.is_grad_enabled():
            stream = self._stream if self._stream is not None and block in self._stream else None
            passes = None if stream is None else partial(stream.passes, block)
            options: dict[str, Any] = {"kind": self.checkpointing, "inputs": self._block_inputs, "passes": passes}
            return recomputed(block, *args, **options, **kwargs)
        with self._on_device(block):
            return block(*args, **kwargs)

    def _project(self, block: nn.Module, context: ContextTokens) -> ContextKV:
        with self._on_device(block):
            video = block.video if isinstance(block, IRGBlock) else block
            assert isinstance(video, WanBlock)
            return video.cross_attn.project(context)

    def _on_device(self, block: nn.Module) -> AbstractContextManager[None]:
        if self._stream is None or block not in self._stream:
            return nullcontext()
        if torch.is_grad_enabled():
            raise ValueError(
                "The blocks are streamed, which is for inference: use torch.no_grad(), or offload='none'. To train, "
                "recompute them (set_checkpointing) and stream frozen weights only."
            )
        return self._stream.using(block)


def _cast(x: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if x is None else x.to(dtype)
