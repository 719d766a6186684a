"""Check a whole-model golden set (weights, inputs, outputs, intermediates, variants, gradients) against FantasyWorld.

A set holds a small released model with random weights, run by the official code. Its README fixes the tensor names.
"""

import dataclasses
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor

from fw_model.checkpoints.keys import released_names
from fw_model.config import CameraConfig, Compat, CrossBranchConfig, GeometryConfig, VideoConfig, WorldConfig
from fw_model.layers.rope import plane_positions
from fw_model.model.conditioning import Conditioning
from fw_model.model.model import FantasyWorld, WorldOutput
from fw_model.model.rays import RayMap
from fw_model.sampling.flow import FlowSchedule, guide

Pair = tuple[str, Tensor, Tensor]
"""Name, ours, theirs."""

GUIDANCE = 5.0
POSE_DECAY = 0.6


def set_config(tiny: dict[str, Any]) -> WorldConfig:
    """The config of a set's tiny model. Timesteps are fed unrounded there, and its Pluecker maps are random."""
    wan21 = tiny["variant"] == "wan21"
    return WorldConfig(
        name="golden",
        video=VideoConfig(
            dim=tiny["dim"],
            heads=tiny["num_heads"],
            ffn_dim=tiny["ffn_dim"],
            blocks=tiny["num_layers"],
            in_dim=tiny["in_dim"],
            text_dim=tiny["text_dim"],
            text_len=tiny["text_len"],
            freq_dim=tiny["freq_dim"],
            clip_dim=tiny["clip_dim"] if wan21 else None,
            control_dim=tiny.get("in_dim_control_adapter", 24) if not wan21 else None,
            eps=tiny["eps"],
        ),
        geometry=GeometryConfig(
            width=tiny["embed_dim"],
            heads=tiny["geo_heads"],
            freq_dim=tiny["geo_freq_dim"],
            dpt_taps=tuple(tiny["dpt_taps"]),
            camera_trunk=tiny["cam_trunk_depth"],
            camera_heads=tiny["cam_heads"],
            dpt_features=tiny["dpt_features"],
            dpt_channels=tuple(tiny["dpt_out_channels"]),
        ),
        cross_branch=CrossBranchConfig(dim=tiny["bicross_dim"], heads=tiny["bicross_heads"]),
        camera=CameraConfig(
            adapter_blocks=tiny["cam_last"] + 1,
            feature_dim=tiny["plucker_fea_dim"],
            downscale=tiny["plucker_downscale"],
        )
        if wan21
        else None,
        pcb_blocks=tiny["start_index"],
        compat=dataclasses.replace(Compat.released(), timestep_rounding="none"),
    )


def load_world(folder: Path) -> FantasyWorld:
    """A set's model, its weights loaded strictly under their released names."""
    tiny = json.loads((folder / "config.json").read_text())["tiny"]
    world = FantasyWorld(set_config(tiny))
    names = released_names(world)
    weights = load_file(folder / "weights.safetensors")
    if set(weights) != set(names):
        raise ValueError(f"{folder}: weight names differ: {sorted(set(weights) ^ set(names))[:5]}")
    world.load_state_dict({names[name]: value for name, value in weights.items()}, strict=True)
    return world.eval()


class SetCheck:
    """Runs a set's model in the ways its files record; every method yields pairs to compare."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.world = load_world(folder)
        self.inputs = {key: value.clone() for key, value in load_file(folder / "inputs.safetensors").items()}

    def pairs(self) -> Iterator[Pair]:
        """Everything the folder has files for."""
        yield from self.forward()
        if (self.folder / "variants.safetensors").exists():
            yield from self.variants()
        if (self.folder / "gradients.json").exists():
            yield from self.gradients()

    def condition(self, *, context: str = "context", camera: bool = True, poses: bool = False) -> Conditioning:
        """The set's conditioning, or a variation of it."""
        given, adapter = self.inputs, self.world.video.control_adapter
        packed = given.get("control_camera_latents_input") if camera else None
        rays = given.get("plucker_embedding") if camera else None
        return self.world.encode_condition(
            context=given[context],
            y=given["y"],
            clip_feature=given.get("clip_feature"),
            plucker=RayMap(rays=rays, convention=self.world.config.compat.plucker) if rays is not None else None,
            control=None if packed is None or adapter is None else adapter.prepare(packed),
            poses=given["camera_token_gt"] if poses else None,
        )

    def run(self, condition: Conditioning, **options: bool) -> WorldOutput:
        """One forward pass without gradients."""
        with torch.no_grad():
            return self.world(self.inputs["latents"], self.inputs["timestep"], condition=condition, **options)

    def forward(self) -> Iterator[Pair]:
        """Outputs and intermediates of the plain conditional pass."""
        recorder = Recorder(self.world)
        with torch.no_grad():
            out = self.run(self.condition())
        ours = recorder.finish(self.inputs["latents"])
        yield from _matched("outputs", stored_outputs(out), load_file(self.folder / "outputs.safetensors"))
        yield from _matched("intermediates", ours, load_file(self.folder / "intermediates.safetensors"))

    @torch.no_grad()
    def variants(self) -> Iterator[Pair]:
        """Uncoupled, known poses, no camera, negative prompt, stage 1, and four sampling steps."""
        ours: dict[str, Tensor] = {}
        runs = {
            "uncond": self.run(self.condition(), cross_branch=False),
            "camtoken": self.run(self.condition(poses=True)),
            "zero_plucker": self.run(self.condition(camera=False)),
            "neg_context": self.run(self.condition(context="context_neg"), predict_geometry=False),
        }
        runs["no_control"] = runs["zero_plucker"]
        for name, out in runs.items():
            ours[f"{name}.velocity"] = out.velocity
            if out.geometry is not None:
                ours[f"{name}.pose_enc"] = out.geometry.pose_encodings[-1]
                ours[f"{name}.depth_frame0"] = out.geometry.depth[:, 0, ..., None]
        ours |= self._stage1()
        theirs = load_file(self.folder / "variants.safetensors")
        if "sampler4.timesteps" in theirs:
            ours |= self._sample()
        yield from _matched("variants", {key: ours[key] for key in ours if key in theirs}, theirs)

    def gradients(self) -> Iterator[Pair]:
        """Norm and sum of the gradient of the recorded loss for every parameter, and for the latents."""
        record = json.loads((self.folder / "gradients.json").read_text())
        world = self.world
        world.zero_grad()
        latents = self.inputs["latents"].clone().requires_grad_()
        out = world(latents, self.inputs["timestep"], condition=self.condition())
        loss = _gradient_loss(out)
        loss.backward()
        yield "gradients/loss", loss.detach(), torch.tensor(record["loss_value"])
        assert latents.grad is not None
        yield "gradients/latents", latents.grad.norm(), torch.tensor(record["grad_latents_l2"])
        parameters = dict(world.named_parameters())
        for theirs, ours in released_names(world).items():
            expected, grad = record["params"][theirs], parameters[ours].grad
            if expected is None:
                yield f"gradients/{theirs} (none)", torch.tensor(float(grad is not None)), torch.tensor(0.0)
            elif grad is None:
                yield f"gradients/{theirs}", torch.tensor(torch.nan), torch.tensor(expected[0])
            else:  # the sum cancels, so it is measured against the norm
                norm, total = expected
                yield (
                    f"gradients/{theirs}",
                    torch.stack([grad.norm(), grad.sum() * 0 + (grad.sum() - total) + norm]),
                    torch.tensor([norm, norm]),
                )
        world.zero_grad()

    def _stage1(self) -> dict[str, Tensor]:
        last: dict[str, Tensor] = {}
        hook = self.world.irg[-1].register_forward_hook(
            lambda _module, _args, out: last.update(tokens=torch.cat([out.frame, out.geometry], dim=-1))
        )
        out = self.world.forward_geometry(self.inputs["latents"], self.inputs["timestep"], condition=self.condition())
        hook.remove()
        return {
            "stage1.tokens_last": last["tokens"],
            "stage1.pose_enc": out.pose_encodings[-1],
            "stage1.depth_frame0": out.depth[:, 0, ..., None],
            "stage1.depth_conf_frame0": out.depth_confidence[:, 0],
        }

    def _sample(self) -> dict[str, Tensor]:
        schedule = FlowSchedule(steps=4, shift=5.0)
        ours = {"sampler4.timesteps": schedule.timesteps, "sampler4.sigmas": schedule.sigmas[:-1]}
        conditions = [self.condition(), self.condition(context="context_neg")]
        latents = self.inputs["latents"]
        for i, timestep in enumerate(schedule.timesteps):
            positive, negative = (
                self.world(latents, timestep[None], condition=c, predict_geometry=n == 0)
                for n, c in enumerate(conditions)
            )
            velocity = guide(positive.velocity, negative.velocity, GUIDANCE)
            latents = latents + velocity * (schedule.sigmas[i + 1] - schedule.sigmas[i])
            ours[f"sampler4.latents_after_step.{i}"] = latents
            ours["sampler4.pose_enc"] = positive.geometry.pose_encodings[-1]
            ours["sampler4.depth_frame0"] = positive.geometry.depth[:, 0, ..., None]
        return ours


class Recorder:
    """Forward hooks that collect what `intermediates.safetensors` stores, under its names."""

    def __init__(self, world: FantasyWorld) -> None:
        self.world = world
        self.seen: dict[str, Any] = defaultdict(dict)
        shell, geometry = world.video, world.geometry
        modules = {
            "shell.time": shell.time,
            "text": shell.text_embedding,
            "image": shell.image_embedding,
            "patch": shell.patch_embedding,
            "control": shell.control_adapter,
            "head": shell.head,
            "plucker": world.pose_encoder,
            "bridge": geometry.bridge,
            "geo.time": geometry.time,
            "expand": geometry.camera_head.expand,
        }
        modules |= {f"pcb.{i}": block for i, block in enumerate(world.pcb)}
        for i, block in enumerate(world.irg):
            modules |= {f"irg.{i}": block, f"irg.{i}.frame": block.frame, f"irg.{i}.coupling": block.cross_branch}
        self.hooks = [
            module.register_forward_hook(self._keep(name)) for name, module in modules.items() if module is not None
        ]

    def finish(self, latents: Tensor) -> dict[str, Tensor]:
        """Remove the hooks; return the tensors by their stored names."""
        for hook in self.hooks:
            hook.remove()
        f, h, w = latents.shape[2], latents.shape[3] // 2, latents.shape[4] // 2
        (t_emb, t_proj), (g_emb, g_proj) = self.seen["shell.time"]["out"], self.seen["geo.time"]["out"]
        specials = self.world.geometry.num_special_tokens
        ours = {
            "wan.t_emb": t_emb,
            "wan.t_proj": t_proj.flatten(1),
            "wan.text_emb": self.seen["text"]["out"],
            "wan.patch_conv": self.seen["patch"]["out"],
            "wan.patch_tokens": self.seen["pcb.0"]["in"][0],
            "wan.head_tokens": self.seen["head"]["out"],
            "bridge.conv_out": rearrange(self.seen["bridge"]["out"], "b f (h w) c -> b c f h w", h=h),
            "geo.t_emb": g_emb,
            "geo.t_proj": g_proj.flatten(1),
            "geo.e0": g_proj,
            "geo.tokens_init": self.seen["irg.0.frame"]["in"][0],
            "geo.pos": plane_positions(h, w, specials).float().expand(f, -1, -1),
            "camera.upsampled_tokens": self.seen["expand"]["out"],
        }
        optional = {"wan.img_emb": "image", "wan.control_adapter_out": "control", "plucker_fea": "plucker"}
        ours |= {name: self.seen[key]["out"] for name, key in optional.items() if key in self.seen}
        ours |= {f"pcb.{i}.out": self.seen[f"pcb.{i}"]["out"] for i in range(len(self.world.pcb))}
        for i in range(len(self.world.irg)):
            layer, met = self.seen[f"irg.{i}"]["out"], self.seen[f"irg.{i}.coupling"]
            ours |= {
                f"irg.{i}.frame_out": layer.frame.flatten(0, 1),
                f"irg.{i}.video_partial": met["in"][0],
                f"irg.{i}.geo_partial": met["in"][1],
                f"irg.{i}.video_fused": met["out"][0],
                f"irg.{i}.geo_fused": met["out"][1],
                f"irg.{i}.video_out": layer.video,
                f"irg.{i}.geo_out": layer.geometry.flatten(1, 2),
            }
        return ours

    def _keep(self, name: str) -> Any:
        def hook(_module: torch.nn.Module, args: tuple[Any, ...], out: Any) -> None:
            self.seen[name] = {"in": args, "out": out}

        return hook


def stored_outputs(out: WorldOutput) -> dict[str, Tensor]:
    """A forward pass under the names of `outputs.safetensors`."""
    geometry = out.geometry
    assert geometry is not None
    ours = {
        "velocity": out.velocity,
        "depth": geometry.depth[..., None],
        "depth_conf": geometry.depth_confidence,
        "world_points": geometry.points,
        "world_points_conf": geometry.points_confidence,
        "pose_enc": geometry.pose_encodings[-1],
    }
    return ours | {f"pose_enc_iter.{i}": pose for i, pose in enumerate(geometry.pose_encodings)}


def _gradient_loss(out: WorldOutput) -> Tensor:
    geometry = out.geometry
    assert geometry is not None
    loss = out.velocity.square().mean() + geometry.depth.mean() + geometry.depth_confidence.mean()
    loss = loss + geometry.points.square().mean() + geometry.points_confidence.mean()
    last = len(geometry.pose_encodings) - 1
    poses = [POSE_DECAY ** (last - k) * pose.square().mean() for k, pose in enumerate(geometry.pose_encodings)]
    return loss + torch.stack(poses).sum()


def _matched(file: str, ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> Iterator[Pair]:
    """Every stored tensor, compared or reported as missing; what we made and they did not store is an error too."""
    if extra := sorted(set(ours) - set(theirs)):
        raise ValueError(f"{file}: no stored tensor for {extra}")
    for name, expected in theirs.items():
        yield f"{file}/{name}", ours.get(name, torch.full_like(expected, torch.nan)), expected
