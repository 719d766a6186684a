"""Generation as a library: an image, a prompt and a camera path in; a world (video, depth, points, cameras) out.

    pipe = WorldPipeline.from_pretrained("runs/tiny/export")
    for progress in pipe.generate("room.png", "a sunny room", trajectory, seed=1):
        print(progress.stage, progress.step, progress.steps)
    world = progress.world
    worlds = pipe(["room.png", "hall.png"], "a sunny room", trajectory, samples_per_pass=2)

A pipeline folder holds config.json and model.safetensors (``FantasyWorld.save_pretrained``) and pipeline.json, which
names autoencoder, text encoder, image encoder and the default sampling.
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import torch

from fw_core.devices import choose_dtype
from fw_geometry.camera import Trajectory
from fw_model.autoencoders.base import VideoAutoencoder
from fw_model.checkpoints.sources import local_folder, upload_folder
from fw_model.encoders.base import TextEncoder
from fw_model.encoders.clip import ClipImageEncoder
from fw_model.layers.attention import Backend, check_backend
from fw_model.layers.offload import Offload, check_offload
from fw_model.layers.stored_weights import StoredWeights
from fw_model.lora.apply import LoadedLora
from fw_model.lora.experts import Expert, load_on_experts, lora_settings, unload_from_experts
from fw_model.model.model import FantasyWorld
from fw_model.parallel.group import WorldGroup
from fw_model.pipeline.components import HIGH_NOISE, load_components, load_expert, save_components
from fw_model.pipeline.inputs import ImageInput, each_of
from fw_model.pipeline.job import GenerationJob, Passes
from fw_model.pipeline.placement import Placement
from fw_model.pipeline.result import Progress, World
from fw_model.pipeline.settings import GenerationSettings, Sampling
from fw_model.pipeline.stages import PipelineStages


class WorldPipeline(PipelineStages):
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
        job = self.prepare(image, prompt, trajectory, settings, last_image=last_image, notes=notes, **changes)
        return self.run([job])

    def generate_many(
        self, jobs: Iterable[GenerationJob], *, samples_per_pass: int = 1
    ) -> Generator[Progress, None, None]:
        """Generate the worlds of jobs that ``prepare`` made, several of them in one pass of the transformer.

        Jobs are taken as they are needed. Those in one pass have the same size, length, noise levels, sampler, guidance
        scale and coupling, and no step reuse; image, prompts, camera path and seed are their own. With
        ``samples_per_pass`` 1 a world equals that of ``generate`` bit by bit. With more it equals it up to rounding:
        matrix products of another number of rows add up in another order.

        Args:
            jobs: what to generate.
            samples_per_pass: most worlds at a time. Memory of the activations grows with it.

        Returns:
            Reports of every pass: encode, denoise, decode. Its last ones hold one world each. ``Progress.samples``
            counts the jobs from 0.
        """
        return self._many(jobs, Passes[int](samples_per_pass))

    def _many(self, jobs: Iterable[GenerationJob], passes: Passes[int]) -> Generator[Progress, None, None]:
        for number, job in enumerate(jobs):
            if full := passes.add(number, job):
                yield from self._numbered(full)
        for left in passes.rest():
            yield from self._numbered(left)

    def _numbered(self, members: Sequence[tuple[int, GenerationJob]]) -> Iterator[Progress]:
        for report in self.run([job for _, job in members]):
            yield replace(report, samples=tuple(members[sample][0] for sample in report.samples))

    @overload
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
    ) -> World: ...

    @overload
    def __call__(
        self,
        image: list[ImageInput],
        prompt: str | list[str],
        trajectory: Trajectory | list[Trajectory],
        settings: GenerationSettings | list[GenerationSettings] | None = None,
        *,
        last_image: ImageInput | list[ImageInput] | None = None,
        notes: Sequence[str] = (),
        samples_per_pass: int = 1,
        **changes: Any,
    ) -> list[World]: ...

    def __call__(
        self,
        image: Any,
        prompt: Any,
        trajectory: Any,
        settings: Any = None,
        *,
        last_image: Any = None,
        notes: Sequence[str] = (),
        samples_per_pass: int = 1,
        **changes: Any,
    ) -> World | list[World]:
        """Generate a world and return it; the arguments are those of ``generate``.

        With a list of images, generate a world for each and return the list. Prompt, trajectory, settings and last
        image are lists of the same length, or one for all; ``samples_per_pass`` is that of ``generate_many``.

        Raises:
            ValueError: as ``generate``, or lists of different lengths.
            TypeError: as ``generate``.
        """
        if not isinstance(image, list):
            if samples_per_pass != 1:
                raise ValueError(f"samples_per_pass is {samples_per_pass}; it applies to lists of images only")
            *_, last = self.generate(image, prompt, trajectory, settings, last_image=last_image, notes=notes, **changes)
            assert last.world is not None, "the last report holds the world"
            return last.world
        given = {"prompt": prompt, "trajectory": trajectory, "settings": settings, "last_image": last_image}
        rows = [
            self.prepare(*row[:4], last_image=row[4], notes=notes, **changes)
            for row in zip(image, *each_of(len(image), given), strict=True)
        ]
        worlds: dict[int, World] = {}
        for report in self.generate_many(rows, samples_per_pass=samples_per_pass):
            if report.world is not None:
                worlds[report.samples[0]] = report.world
        return [worlds[number] for number in range(len(rows))]

    def follow(self) -> None:
        """Help with the worlds that the first process of ``parallel`` generates, until it closes or ends."""
        if self.parallel is None or self.parallel.is_leader:
            raise ValueError("follow: this process leads, or works alone; call generate")
        while (request := self.parallel.hear()) is not None:
            self.parallel.follow(self._denoise(request))
