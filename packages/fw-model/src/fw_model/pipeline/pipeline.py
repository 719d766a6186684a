"""Generation as a library: an image, a prompt and a camera path in; a world (video, depth, points, cameras) out.

    pipe = WorldPipeline.from_pretrained("runs/tiny/export")
    for progress in pipe.generate("room.png", "a sunny room", trajectory, seed=1):
        print(progress.stage, progress.step, progress.steps)
    world = progress.world

A pipeline folder holds config.json and model.safetensors (``FantasyWorld.save_pretrained``) and pipeline.json, which
names autoencoder, text encoder, image encoder and the default sampling.

Axes: b batch, F frames, H W pixels, c channels, f latent frames, y x latent rows and columns.
"""

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from fw_core.devices import choose_dtype
from fw_geometry.camera import Trajectory
from fw_geometry.clip_shape import check_clip_shape
from fw_model.autoencoders.base import VideoAutoencoder, first_frame_condition, latent_shape
from fw_model.checkpoints.sources import local_folder, upload_folder
from fw_model.encoders.base import TextEncoder
from fw_model.encoders.clip import ClipImageEncoder
from fw_model.geometry.branch import GeometryOutput
from fw_model.layers.attention import Backend, check_backend
from fw_model.layers.offload import Offload, check_offload
from fw_model.layers.stored_weights import StoredWeights
from fw_model.lora.apply import LoadedLora
from fw_model.lora.experts import Expert, load_on_experts, lora_settings, unload_from_experts
from fw_model.losses.targets import recovered_path
from fw_model.model.conditioning import Conditioning
from fw_model.model.model import FantasyWorld
from fw_model.model.rays import RayMap
from fw_model.parallel.group import WorldGroup
from fw_model.pipeline.components import HIGH_NOISE, load_components, load_expert, save_components
from fw_model.pipeline.inputs import ImageInput, check_types, prepare_image, prepare_trajectory
from fw_model.pipeline.job import DenoiseRequest, EncodedInputs, GenerationJob, host_array
from fw_model.pipeline.placement import Placement
from fw_model.pipeline.result import Progress, World
from fw_model.pipeline.settings import GenerationSettings, Sampling
from fw_model.sampling.denoise import DenoiseStep, choose_expert, clean_latents, denoise
from fw_model.sampling.flow import FlowSchedule, counter_noise


class WorldPipeline:
    """A model with everything it needs to go from an image to a world.

    Args:
        world: the model; the low-noise expert of a two-expert model.
        autoencoder: maps video to the latents that the model was trained on.
        text_encoder: computes the embeddings that the model was trained on.
        image_encoder: CLIP, for models with an image branch.
        high_noise: the other expert of a two-expert model.
        sampling: defaults of ``generate``.
        trained_on: the only kind of image that the model knows, such as "rendered rooms"; empty if nothing is recorded.
        free_encoders: drop text and image encoder from memory once a sample's inputs are encoded.
        offload: parts to keep on the device only while they are used: "none", "model" (each large part) or "block" (the
            transformer's blocks one at a time too). Results do not depend on it.
        device: where to compute; by default where the model is.
        text_device: where the text encoder stays and computes, such as "cpu"; by default as all parts.
        parallel: this process's place among those that generate a world together. The first one calls ``generate``,
            the others ``follow``.
    """

    def __init__(
        self,
        world: FantasyWorld,
        autoencoder: VideoAutoencoder,
        text_encoder: TextEncoder,
        *,
        image_encoder: ClipImageEncoder | None = None,
        high_noise: FantasyWorld | None = None,
        sampling: Sampling | None = None,
        trained_on: str = "",
        free_encoders: bool = False,
        offload: Offload = "none",
        device: str | torch.device | None = None,
        text_device: str | torch.device | None = None,
        parallel: WorldGroup | None = None,
    ) -> None:
        video = world.config.video
        if video.clip_dim is not None and image_encoder is None:
            raise ValueError(
                f"Model {world.config.name!r} has an image branch: give image_encoder=ClipImageEncoder(...)."
            )
        if (text_encoder.text_len, text_encoder.text_dim) != (video.text_len, video.text_dim):
            raise ValueError(
                f"The text encoder gives {text_encoder.text_len} tokens of width {text_encoder.text_dim}, model "
                f"{world.config.name!r} wants {video.text_len} of width {video.text_dim}."
            )
        self.world, self.high_noise = world.eval(), None if high_noise is None else high_noise.eval()
        self.autoencoder, self.text_encoder, self.image_encoder = autoencoder, text_encoder, image_encoder
        self.sampling = sampling or Sampling.for_text_dim(video.text_dim)
        self.trained_on = trained_on
        self.free_encoders = free_encoders
        self.text_device = None if text_device is None else torch.device(text_device)
        self.parallel = parallel
        self.placement = Placement(offload, device or next(world.parameters()).device)
        self.to(self.placement.device)

    @property
    def device(self) -> torch.device:
        """The device that computes everything."""
        return self.placement.device

    @property
    def follows_camera(self) -> bool:
        """Whether the camera path changes the video; False for weights of `fw-train base` or `stage1` without camera
        control."""
        return self.world.follows_camera

    def to(self, device: str | torch.device) -> "WorldPipeline":
        """Compute on another device; with offloading the weights stay in host memory until they are used."""
        old = self.placement
        self.placement = Placement(old.offload, device, ahead=old.ahead)
        for part in (self.world, self.high_noise, self.autoencoder, self.image_encoder):
            if part is not None:
                part.to(self.placement.home)
        self.text_encoder.to(self.text_device or self.placement.home)
        return self

    def __repr__(self) -> str:
        """Model with size, type and device; parts, offloading, LoRAs and default sampling."""
        config, weight = self.world.config, next(self.world.parameters())
        loras = lora_settings(self._by_expert()).get("loras", [])
        count = sum(p.numel() for expert in self._experts() for p in expert.parameters())
        parts: dict[str, Any] = {
            "model": f"{config.name!r}, {count / 1e6:,.1f}M parameters, {str(weight.dtype).removeprefix('torch.')}",
            "experts": None if self.high_noise is None else "high_noise, low_noise",
            "device": f"{self.device}, offload={self.placement.offload!r}",
            "autoencoder": type(self.autoencoder).__name__,
            "text_encoder": f"{type(self.text_encoder).__name__}, {self.text_encoder.text_len} tokens"
            + ("" if self.text_device is None else f", on {self.text_device}"),
            "image_encoder": None if self.image_encoder is None else type(self.image_encoder).__name__,
            "loras": ", ".join(f"{one['name']} x {one['scale']:g}" for one in loras),
            "sampling": f"{self.sampling.num_frames} frames of {self.sampling.width}x{self.sampling.height}, "
            f"{self.sampling.num_inference_steps} steps, guidance_scale {self.sampling.guidance_scale:g}",
        }
        return "WorldPipeline(\n" + "".join(f"  {name}: {text}\n" for name, text in parts.items() if text) + ")"

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        device: str | torch.device = "cpu",
        dtype: str | torch.dtype | None = None,
        preset: str | None = None,
        revision: str | None = None,
        free_encoders: bool = False,
        offload: Offload = "none",
        text_device: str | torch.device | None = None,
        attention: Backend = "auto",
        compile_blocks: bool = False,
        parallel: WorldGroup | None = None,
        weights: StoredWeights | None = None,
    ) -> "WorldPipeline":
        """Load a pipeline folder or hub id.

        Args:
            source: the folder, "owner/name" (also "hf://owner/name") to download, or "small-world" for the weights
                included in the package.
            device: where to compute.
            dtype: precision of the transformer, also by name ("bfloat16"); None keeps the file's, except that float16
                becomes float32, because float16 is used for storage only. The geometry heads are always float32.
            preset: refuse a checkpoint of any other preset.
            revision: branch, tag or commit of a hub id.
            free_encoders: see the class.
            offload: see the class.
            text_device: see the class.
            attention: kernel of every attention; "auto" chooses by device and dtype.
            compile_blocks: ``torch.compile`` every block; the first step is slow. Needs a C++ compiler on the CPU.
            parallel: see the class.
            weights: "fp8" or "int8" stores the matrices of the blocks in 8 bits; without `dtype`, bfloat16 computes.

        Raises:
            ValueError: not a pipeline folder, another preset, a part it names is missing, or an option that is not
                known or not available here.
        """
        check_offload(offload)
        check_backend(attention)
        dtype, folder = choose_dtype(dtype), local_folder(source, revision=revision)
        parts = load_components(folder)
        home = device if offload == "none" else "cpu"
        world = load_expert(folder, home, dtype, preset, weights)
        two = (folder / HIGH_NOISE).is_dir()
        high = load_expert(folder / HIGH_NOISE, home, dtype, weights=weights) if two else None
        for expert in [world] if high is None else [world, high]:
            expert.set_attention_backend(attention)
            if compile_blocks:
                expert.compile_blocks()
        return cls(
            world,
            parts.autoencoder,
            parts.text_encoder,
            image_encoder=parts.image_encoder,
            high_noise=high,
            sampling=parts.sampling,
            trained_on=parts.trained_on,
            free_encoders=free_encoders,
            offload=offload,
            device=device,
            text_device=text_device,
            parallel=parallel,
        )

    def save(self, folder: str | Path) -> Path:
        """Write weights, autoencoder and pipeline.json; ``from_pretrained`` loads the folder."""
        folder = Path(folder)
        self.world.save_pretrained(folder)
        if self.high_noise is not None:
            self.high_noise.save_pretrained(folder / HIGH_NOISE)
        parts = (self.autoencoder, self.text_encoder, self.image_encoder, self.sampling)
        save_components(folder, *parts, trained_on=self.trained_on)
        return folder

    def push_to_hub(
        self, repo: str, *, private: bool = False, revision: str | None = None, message: str = "Upload world pipeline"
    ) -> str:
        """Save the pipeline and upload the folder to the Hugging Face hub, with the login of `hf auth login`.

        Args:
            repo: "owner/name"; created if it does not exist.
            private: visibility of a new repository.
            revision: branch to upload to; None: the main branch.
            message: first line of the commit.

        Returns:
            Address of the commit.
        """
        return upload_folder(self.save, repo, private=private, revision=revision, message=message)

    def load_lora(
        self,
        source: str | Path,
        scale: float = 1.0,
        *,
        name: str | None = None,
        merge: bool = False,
        expert: Expert | None = None,
    ) -> list[LoadedLora]:
        """Put a LoRA file on the video branch; several may be loaded one after the other.

        Args:
            source: a safetensors file in the layout of diffusers, PEFT, kohya, ComfyUI, DiffSynth or VideoX-Fun.
            scale: strength; 1 is the update as trained.
            name: its name for ``unload_lora``; by default the file's name without its extension.
            merge: add it into the weights, for good, instead of computing it beside them.
            expert: of a two-expert model, "high_noise" or "low_noise". By default the one that the file's name has in
                it, else both.

        Raises:
            ValueError: see ``fw_model.lora.load_lora``.
        """
        return load_on_experts(self._by_expert(), source, scale, name=name, merge=merge, expert=expert)

    def unload_lora(self, name: str | None = None) -> list[str]:
        """Remove one LoRA, or all. ValueError if there is none of this name, or if it was merged."""
        return unload_from_experts(self._by_expert(), name)

    def generate(
        self,
        image: ImageInput,
        prompt: str,
        trajectory: Trajectory,
        settings: GenerationSettings | None = None,
        *,
        last_image: ImageInput | None = None,
        notes: Sequence[str] = (),
        **changes: Any,
    ) -> Generator[Progress, None, None]:
        """Generate a world. Inputs are checked at once; the work is done as the reports are taken.

        Close the iterator to stop between two steps.

        Args:
            image: the first frame: PIL image, uint8 array [h, w, 3] or file.
            prompt: text that describes the world.
            trajectory: the camera path. Poses are taken relative to the first; the intrinsics are resized and cropped
                along with the image.
            settings: see ``GenerationSettings``. Number of frames and size are by default those of ``trajectory``,
                everything else is by default ``self.sampling``.
            last_image: the last frame, for models with mask channels and no CLIP (Wan2.2).
            notes: the first entries of ``World.notes``, such as those of ``read_image`` on an image given as an array.
            changes: fields of ``GenerationSettings`` to set, such as ``num_inference_steps=20, seed=1``.

        Returns:
            Reports in order: encode, denoise, decode; the last one holds the world.

        Raises:
            ValueError: sizes, path, image or settings that are invalid, and how to fix them.
            TypeError: an argument of another type, or a name in ``changes`` that is not a field of
                ``GenerationSettings``.
        """
        check_types(prompt, trajectory)
        if self.parallel is not None and not self.parallel.is_leader:
            raise ValueError("generate: this process is not the first of its group; call follow")
        settings = (settings or GenerationSettings()).updated(**changes)
        settings.validate()
        shape = {"num_frames": len(trajectory), "height": trajectory.height, "width": trajectory.width}
        chosen = settings.sampling(replace(self.sampling, **shape))
        num_frames, height, width, fit = chosen.num_frames, chosen.height, chosen.width, settings.fit
        check_clip_shape(num_frames, height, width)
        schedule = FlowSchedule(steps=chosen.num_inference_steps, shift=chosen.shift)
        self._check_model(schedule, last_image is not None)
        collected = list(notes)
        job = GenerationJob(
            notes=collected,
            image=prepare_image(image, height, width, fit, collected),
            last_image=None
            if last_image is None
            else prepare_image(last_image, height, width, fit, collected, "last_image"),
            prompt=prompt,
            path=prepare_trajectory(
                trajectory,
                num_frames=num_frames,
                height=height,
                width=width,
                fit=fit,
                scene_scale=settings.scene_scale,
                notes=collected,
            ),
            schedule=schedule,
            sampling=chosen,
            settings=settings,
        )
        return self._run(job)

    def __call__(
        self,
        image: ImageInput,
        prompt: str,
        trajectory: Trajectory,
        settings: GenerationSettings | None = None,
        *,
        last_image: ImageInput | None = None,
        notes: Sequence[str] = (),
        **changes: Any,
    ) -> World:
        """Generate a world and return it; the arguments are those of ``generate``."""
        *_, last = self.generate(image, prompt, trajectory, settings, last_image=last_image, notes=notes, **changes)
        assert last.world is not None, "the last report holds the world"
        return last.world

    def follow(self) -> None:
        """Help with the worlds that the first process of ``parallel`` generates, until it closes or ends."""
        if self.parallel is None or self.parallel.is_leader:
            raise ValueError("follow: this process leads, or works alone; call generate")
        while (request := self.parallel.hear()) is not None:
            self.parallel.follow(self._denoise(request))

    @torch.no_grad()
    def decode_frames(self, latents: Float[Tensor, "1 c f y x"]) -> UInt8[np.ndarray, "F H W 3"]:
        """RGB frames of latents, such as the preview in ``Progress.clean_latents``."""
        with self.placement.part("autoencoder", self.autoencoder):
            video = self.autoencoder.decode(latents)[0].float().clamp(-1, 1)
        frames = rearrange(((video + 1) * 127.5).round().to(torch.uint8), "c f h w -> f h w c")
        return frames.cpu().numpy()

    def _check_model(self, schedule: FlowSchedule, last_image: bool) -> None:
        """Raise ValueError if the loaded model cannot run this schedule or take a last frame."""
        for timestep in schedule.timesteps:
            choose_expert(self._experts(), float(timestep))
        video = self.world.config.video
        if last_image and (video.y_dim != video.out_dim + 4 or video.clip_dim is not None):
            raise ValueError(
                f"last_image: model {self.world.config.name!r} takes no last frame; omit it, or use a wan22 checkpoint"
            )

    def _by_expert(self) -> dict[str, FantasyWorld]:
        if self.high_noise is None:
            return {"": self.world}
        return {"low_noise": self.world, HIGH_NOISE: self.high_noise}

    def _experts(self) -> list[FantasyWorld]:
        return [self.world] if self.high_noise is None else [self.world, self.high_noise]

    def _run(self, job: GenerationJob) -> Generator[Progress, None, None]:
        start = time.monotonic()
        yield Progress(stage="encode", step=0, steps=1, seconds=0.0)
        inputs = self._encode(job)
        yield Progress(stage="encode", step=1, steps=1, seconds=time.monotonic() - start)
        request = DenoiseRequest(
            inputs=inputs,
            shape=latent_shape(self.world.config.video.out_dim, len(job.path), job.path.height, job.path.width),
            schedule=job.schedule,
            sampling=job.sampling,
            settings=job.settings,
        )
        if self.parallel is not None:
            self.parallel.tell(replace(request, inputs=inputs.to("cpu")))
        began = time.monotonic()
        loop = self._denoise(request)
        total, latents, state = job.schedule.steps, self._noise(request), None
        for state in loop if self.parallel is None else self.parallel.lead(loop):
            now = time.monotonic()
            left = (now - began) / state.index * (total - state.index)
            yield Progress(
                stage="denoise", step=state.index, steps=total, seconds=now - start, eta_seconds=left,
                clean_latents=clean_latents(latents, state, job.schedule),
            )  # fmt: skip
            latents = state.latents
        assert state is not None, "a schedule has at least one step"
        assert state.geometry is not None, "the last step reads the geometry"
        yield Progress(stage="decode", step=0, steps=1, seconds=time.monotonic() - start)
        world = self._finish(job, state, state.geometry)
        yield Progress(stage="decode", step=1, steps=1, seconds=time.monotonic() - start, eta_seconds=0.0, world=world)

    def _denoise(self, request: DenoiseRequest) -> Iterator[DenoiseStep]:
        """The sampling loop, on every process that takes part in it."""
        pair = None
        if self.parallel is not None:
            divided, pair = self.parallel.divided(request.sampling.guidance_scale != 1)
            for expert in self._experts():
                expert.set_sequence_group(divided)
        inputs = request.inputs.to(self.device)
        return denoise(
            self._experts(),
            lambda expert: self._conditions(expert, inputs),
            self._noise(request),
            request.schedule,
            sampler=request.sampling.sampler,
            guidance_scale=request.sampling.guidance_scale,
            cross_branch=request.settings.cross_branch,
            easycache=request.settings.easycache,
            on_device=self.placement.expert,
            pair=pair,
        )

    def _noise(self, request: DenoiseRequest) -> Float[Tensor, "1 c f y x"]:
        return counter_noise(request.settings.seed, 0, 0, request.shape, device=self.device)[None]

    @torch.no_grad()
    def _encode(self, job: GenerationJob) -> EncodedInputs:
        config = self.world.config
        image = job.image.to(self.device)[None]
        prompts = [job.prompt, *([job.sampling.negative_prompt] if job.sampling.guidance_scale != 1 else [])]
        with self.placement.encoder(self.text_encoder, self.text_device):
            text = self.text_encoder.encode(prompts).to(self.device)
            cut = [self.text_encoder.truncation(prompt) for prompt in prompts]
        for name, note in zip(("", "negative_prompt: "), cut, strict=False):
            if note is not None:
                job.notes.append(f"{name}{note}")
        clip = None
        if config.video.clip_dim is not None and self.image_encoder is not None:
            with self.placement.encoder(self.image_encoder):
                clip = self.image_encoder.encode(image).to(self.device)
        if self.free_encoders:
            self.text_encoder.free()
            if self.image_encoder is not None:
                self.image_encoder.free()
        last = None if job.last_image is None else job.last_image.to(self.device)[None, :, None]
        with self.placement.part("autoencoder", self.autoencoder):
            y = first_frame_condition(self.autoencoder, image[:, :, None], len(job.path), config.video.y_dim, last=last)
        rays = RayMap.from_trajectory(config, job.path)
        return EncodedInputs(text=text, clip=clip, y=y, plucker=None if rays is None else rays.to(self.device))

    @torch.no_grad()
    def _conditions(self, world: FantasyWorld, inputs: EncodedInputs) -> tuple[Conditioning, Conditioning | None]:
        """Embed the conditioning of every step once; guidance changes the text alone."""
        made = [
            world.encode_condition(context=row[None], y=inputs.y, clip_feature=inputs.clip, plucker=inputs.plucker)
            for row in inputs.text
        ]
        return made[0], made[1] if len(made) == 2 else None

    @torch.no_grad()
    def _finish(self, job: GenerationJob, state: DenoiseStep, geometry: GeometryOutput) -> World:
        frames = self.decode_frames(state.latents)
        scale = job.settings.scene_scale
        return World(
            video=frames,
            depth=host_array(geometry.depth * scale),
            depth_confidence=host_array(geometry.depth_confidence),
            points=host_array(geometry.points * scale),
            points_confidence=host_array(geometry.points_confidence),
            trajectory=recovered_path(geometry.pose_encodings[-1][0], job.path).scaled(scale),
            requested=job.path.scaled(scale),
            fps=job.sampling.fps,
            settings={
                "model": self.world.config.name,
                "prompt": job.prompt,
                **job.settings.to_dict(),
                **{name: value for name, value in asdict(job.sampling).items() if name != "fps"},
                "last_image": job.last_image is not None,
                "reused_steps": state.reused_steps,
                **({} if self.follows_camera else {"follows_camera": False}),
                **lora_settings(self._by_expert()),
            },
            notes=tuple(dict.fromkeys(job.notes)),
        )
