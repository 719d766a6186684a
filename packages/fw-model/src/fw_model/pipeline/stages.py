"""The work of a generation, stage by stage: encode, denoise, decode.

`WorldPipeline` adds to this class how it is built and stored, and the calls of a user.

Axes: b samples, F frames, H W pixels, c channels, f latent frames, y x latent rows and columns.
"""

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from fw_geometry.camera import Trajectory
from fw_geometry.clip_shape import check_clip_shape
from fw_model.autoencoders.base import VideoAutoencoder, first_frame_condition, latent_shape
from fw_model.config import PATCH
from fw_model.encoders.base import TextEncoder
from fw_model.encoders.clip import ClipImageEncoder
from fw_model.geometry.branch import GeometryOutput
from fw_model.lora.experts import lora_settings
from fw_model.losses.targets import recovered_path
from fw_model.model.conditioning import Conditioning
from fw_model.model.model import FantasyWorld
from fw_model.model.rays import RayMap
from fw_model.parallel.group import WorldGroup
from fw_model.parallel.sequence import make_layout
from fw_model.pipeline.components import HIGH_NOISE
from fw_model.pipeline.inputs import ImageInput, check_types, prepare_image, prepare_trajectory
from fw_model.pipeline.job import DenoiseRequest, EncodedInputs, GenerationJob, host_array
from fw_model.pipeline.placement import Placement
from fw_model.pipeline.result import Progress, World
from fw_model.pipeline.settings import GenerationSettings, Sampling
from fw_model.sampling.denoise import DenoiseStep, choose_expert, clean_latents, denoise
from fw_model.sampling.flow import FlowSchedule, counter_noise


class PipelineStages:
    """The parts of a pipeline and the work that they do; see `WorldPipeline` for the parts."""

    world: FantasyWorld
    high_noise: FantasyWorld | None
    autoencoder: VideoAutoencoder
    text_encoder: TextEncoder
    image_encoder: ClipImageEncoder | None
    free_encoders: bool
    text_device: torch.device | None
    parallel: WorldGroup | None
    placement: Placement
    sampling: Sampling

    @property
    def device(self) -> torch.device:
        """The device that computes everything."""
        return self.placement.device

    @property
    def follows_camera(self) -> bool:
        """Whether the camera path changes the video; False for weights of `fw-train base` or `stage1` without camera
        control."""
        return self.world.follows_camera

    @torch.no_grad()
    def decode_frames(self, latents: Float[Tensor, "b c f y x"]) -> UInt8[np.ndarray, "F H W 3"]:
        """RGB frames of latents, such as the preview in ``Progress.clean_latents``; of several samples, the first."""
        with self.placement.part("autoencoder", self.autoencoder):
            video = self.autoencoder.decode(latents[:1])[0].float().clamp(-1, 1)
        frames = rearrange(((video + 1) * 127.5).round().to(torch.uint8), "c f h w -> f h w c")
        return frames.cpu().numpy()

    def _by_expert(self) -> dict[str, FantasyWorld]:
        if self.high_noise is None:
            return {"": self.world}
        return {"low_noise": self.world, HIGH_NOISE: self.high_noise}

    def _experts(self) -> list[FantasyWorld]:
        return [self.world] if self.high_noise is None else [self.world, self.high_noise]

    def prepare(
        self,
        image: ImageInput,
        prompt: str,
        trajectory: Trajectory,
        settings: GenerationSettings | None = None,
        *,
        last_image: ImageInput | None = None,
        notes: Sequence[str] = (),
        **changes: Any,
    ) -> GenerationJob:
        """Check the arguments of ``WorldPipeline.generate`` and fit them to the model; raises what it raises."""
        check_types(prompt, trajectory)
        settings = (settings or GenerationSettings()).updated(**changes)
        settings.validate()
        shape = {"num_frames": len(trajectory), "height": trajectory.height, "width": trajectory.width}
        chosen = settings.sampling(replace(self.sampling, **shape))
        num_frames, height, width, fit = chosen.num_frames, chosen.height, chosen.width, settings.fit
        check_clip_shape(num_frames, height, width)
        schedule = FlowSchedule(steps=chosen.num_inference_steps, shift=chosen.shift, listed=chosen.timesteps)
        self._check_model(schedule, last_image is not None)
        self.check_division(chosen)
        collected = list(notes)
        last = None
        first = prepare_image(image, height, width, fit, collected)
        if last_image is not None:
            last = prepare_image(last_image, height, width, fit, collected, "last_image")
        path = prepare_trajectory(
            trajectory, num_frames=num_frames, height=height, width=width, fit=fit, scene_scale=settings.scene_scale,
            notes=collected,
        )  # fmt: skip
        return GenerationJob(
            image=first, last_image=last, prompt=prompt, path=path, schedule=schedule, sampling=chosen,
            settings=settings, notes=collected,
        )  # fmt: skip

    def _check_model(self, schedule: FlowSchedule, last_image: bool) -> None:
        """Raise ValueError if the loaded model cannot run this schedule or take a last frame."""
        for timestep in schedule.timesteps:
            choose_expert(self._experts(), float(timestep))
        video = self.world.config.video
        if last_image and (video.y_dim != video.out_dim + 4 or video.clip_dim is not None):
            raise ValueError(
                f"last_image: model {self.world.config.name!r} takes no last frame; omit it, or use a wan22 checkpoint"
            )

    def check_division(self, sampling: Sampling) -> None:
        """Raise ValueError if the processes of ``parallel`` cannot divide such a world: it has fewer latent frames, or
        the model fewer heads. Found in its midst, that would end the group."""
        if self.parallel is None:
            return
        group, _ = self.parallel.divided(sampling.guidance_scale != 1)
        _, frames, rows, columns = latent_shape(1, sampling.num_frames, sampling.height, sampling.width)
        make_layout(group, frames, rows // PATCH[1], columns // PATCH[2], special=0)
        for expert in self._experts():
            expert.check_sequence_group(group)

    def run(self, jobs: Sequence[GenerationJob]) -> Generator[Progress, None, None]:
        """Generate the worlds of jobs that `Passes` put together; the reports of the last stage hold one world each.

        ``Progress.samples`` counts the jobs from 0.
        """
        if self.parallel is not None and not self.parallel.is_leader:
            raise ValueError("this process is not the first of its group; call follow")
        return self._run(jobs)

    def _run(self, jobs: Sequence[GenerationJob]) -> Generator[Progress, None, None]:
        start, count, everyone = time.monotonic(), len(jobs), tuple(range(len(jobs)))
        first = jobs[0]
        yield Progress(stage="encode", step=0, steps=count, seconds=0.0, samples=everyone)
        encoded: list[EncodedInputs] = []
        for job in jobs:
            encoded.append(self._encode(job))
            elapsed = time.monotonic() - start
            yield Progress(stage="encode", step=len(encoded), steps=count, seconds=elapsed, samples=everyone)
        if self.free_encoders:
            self.text_encoder.free()
            if self.image_encoder is not None:
                self.image_encoder.free()
        path = first.path
        request = DenoiseRequest(
            inputs=EncodedInputs.stack(encoded),
            shape=latent_shape(self.world.config.video.out_dim, len(path), path.height, path.width),
            seeds=tuple(job.settings.seed for job in jobs),
            schedule=first.schedule,
            sampling=first.sampling,
            settings=first.settings,
        )
        if self.parallel is not None:
            self.parallel.tell(replace(request, inputs=request.inputs.to("cpu")))
        began = time.monotonic()
        loop = self._denoise(request)
        total, latents, state = first.schedule.steps, self._noise(request), None
        for state in loop if self.parallel is None else self.parallel.lead(loop):
            now = time.monotonic()
            left = (now - began) / state.index * (total - state.index)
            yield Progress(
                stage="denoise", step=state.index, steps=total, seconds=now - start, eta_seconds=left,
                clean_latents=clean_latents(latents, state, first.schedule), samples=everyone,
            )  # fmt: skip
            latents = state.latents
        assert state is not None, "a schedule has at least one step"
        assert state.geometry is not None, "the last step reads the geometry"
        yield Progress(stage="decode", step=0, steps=count, seconds=time.monotonic() - start, samples=everyone)
        for sample, job in enumerate(jobs):
            world = self._finish(job, state, state.geometry, sample)
            yield Progress(
                stage="decode", step=sample + 1, steps=count, seconds=time.monotonic() - start,
                eta_seconds=0.0 if sample + 1 == count else None, world=world, samples=(sample,),
            )  # fmt: skip

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

    def _noise(self, request: DenoiseRequest) -> Float[Tensor, "b c f y x"]:
        return torch.stack([counter_noise(seed, 0, 0, request.shape, device=self.device) for seed in request.seeds])

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
        last = None if job.last_image is None else job.last_image.to(self.device)[None, :, None]
        with self.placement.part("autoencoder", self.autoencoder):
            y = first_frame_condition(self.autoencoder, image[:, :, None], len(job.path), config.video.y_dim, last=last)
        rays = RayMap.from_trajectory(config, job.path)
        return EncodedInputs(text=text[:, None], clip=clip, y=y, plucker=None if rays is None else rays.to(self.device))

    @torch.no_grad()
    def _conditions(self, world: FantasyWorld, inputs: EncodedInputs) -> tuple[Conditioning, Conditioning | None]:
        """Embed the conditioning of every step once; guidance changes the text alone."""
        made = [
            world.encode_condition(context=rows, y=inputs.y, clip_feature=inputs.clip, plucker=inputs.plucker)
            for rows in inputs.text
        ]
        return made[0], made[1] if len(made) == 2 else None

    @torch.no_grad()
    def _finish(self, job: GenerationJob, state: DenoiseStep, geometry: GeometryOutput, sample: int) -> World:
        frames = self.decode_frames(state.latents[sample : sample + 1])
        scale = job.settings.scene_scale
        return World(
            video=frames,
            depth=host_array(geometry.depth[sample] * scale),
            depth_confidence=host_array(geometry.depth_confidence[sample]),
            points=host_array(geometry.points[sample] * scale),
            points_confidence=host_array(geometry.points_confidence[sample]),
            trajectory=recovered_path(geometry.pose_encodings[-1][sample], job.path).scaled(scale),
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
