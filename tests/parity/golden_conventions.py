"""Check the golden component files that are conventions, not modules: rays, pose encodings, the noise schedule."""

import torch
from torch import Tensor

from fw_geometry import released_intrinsics
from fw_geometry.pose import decode_pose, encode_pose, se3_inverse
from fw_geometry.rays import pack_plucker, plucker_rays, plucker_rays_double_scaled, unproject
from fw_model.layers.modulation import sinusoid
from fw_model.losses.targets import trajectory_scale
from fw_model.sampling.flow import FlowSchedule, add_noise, euler_step, flow_target, round_timestep, training_grid

Tensors = dict[str, Tensor]


def plucker(t: Tensors) -> Tensors:
    """Correct and double-scaled Pluecker maps of two clips, and the packing for the control adapter."""
    ours: Tensors = {"pack.control_latents": pack_plucker(t["pack.plucker"])}
    for name in ("land", "port"):
        height, width = t[f"{name}.plucker_correct"].shape[2:4]
        poses = encode_pose(t[f"{name}.w2c"], t[f"{name}.K"], height, width)
        w2c, K = decode_pose(poses, height, width)
        ours |= {f"{name}.pose_enc": poses, f"{name}.decoded_w2c_3x4": w2c[..., :3, :], f"{name}.decoded_K": K}
        relative = t[f"{name}.relative_c2w"]
        ours[f"{name}.plucker_correct"] = plucker_rays(K, relative, height, width)
        ours[f"{name}.plucker_official"] = plucker_rays_double_scaled(K, relative, height, width)
    return ours


def pose_encoding(t: Tensors) -> Tensors:
    """Encoding and decoding, also of quaternions that are not of unit length."""
    height, width = 336, 592
    ours = {"pose_enc": encode_pose(_square(t["w2c"]), t["K"], height, width)}
    for prefix, source in (("", "pose_enc"), ("raw_", "raw_pose_enc")):
        w2c, K = decode_pose(t[source], height, width)
        ours |= {f"{prefix}decoded_w2c": w2c[..., :3, :], f"{prefix}decoded_K": K}
    return ours


def scheduler(t: Tensors) -> Tensors:
    """Sigmas and timesteps, Euler paths, the training table, sinusoids."""
    ours: Tensors = {"infer.shift5.n20.strength0.7.sigmas": _sigmas(20, 5, 0.7)}
    for shift in (5, 3):
        for steps in (50, 20, 4):
            name, schedule = f"infer.shift{shift}.n{steps}", FlowSchedule(steps=steps, shift=shift)
            ours |= {
                f"{name}.sigmas": schedule.sigmas[:-1],
                f"{name}.timesteps": schedule.timesteps,
                f"{name}.timesteps_bf16": round_timestep(schedule.timesteps, "bf16"),
            }
        table = training_grid(float(shift))
        ours |= {
            f"train.shift{shift}.sigmas": table.sigmas,
            f"train.shift{shift}.timesteps": table.timesteps,
            f"train.shift{shift}.weights": table.weights,
        }
    for shift, steps in ((5, 4), (3, 20)):
        name = f"euler.shift{shift}.n{steps}"
        sigmas, x, path = FlowSchedule(steps=steps, shift=shift).sigmas, t[f"{name}.x0"], []
        for i, velocity in enumerate(t[f"{name}.model_outputs"]):
            x = euler_step(x, velocity, float(sigmas[i]), float(sigmas[i + 1]))
            path.append(x)
        ours[f"{name}.trajectory"] = torch.stack(path)
    ids = t["train.example.ids"].long()
    clean, noise, table = t["train.example.x0"], t["train.example.noise"], training_grid(5.0)
    ours |= {
        "train.example.noisy": add_noise(clean, noise, table.sigmas[ids]),
        "train.example.target": flow_target(clean, noise),
        "train.example.weight": table.weights[ids],
    }
    exact, rounded = t["sinusoid.t"], round_timestep(t["sinusoid.t"], "bf16")
    return ours | {
        "sinusoid.t_bf16": rounded,
        "sinusoid.geo256": sinusoid(exact, 256),
        "sinusoid.wan256_f32": sinusoid(exact, 256),
        "sinusoid.wan64_f32": sinusoid(exact, 64),
        "sinusoid.geo256_bf16": sinusoid(rounded, 256),
        "sinusoid.wan256_bf16": sinusoid(rounded, 256).to(torch.bfloat16).float(),
    }


def geometry_utils(t: Tensors) -> Tensors:
    """Helpers of the released scripts: camera files, scene scale, point clouds (pixel centers at whole numbers)."""
    w2c = t["json.w2c"]
    local = t["scale.world_points"] @ w2c[0, :3, :3].T + w2c[0, :3, 3]
    scale = trajectory_scale(local, t["scale.mask"] > 0)
    relative = w2c @ se3_inverse(w2c[:1])
    relative[:, :3, 3] /= scale
    pose_w2c, K = decode_pose(t["cloud.pose_enc"][0], 6, 8)
    K[:, :2, 2] += 0.5
    fixed = torch.cat([torch.eye(4)[None], pose_w2c[1:]])
    depth = t["cloud.depth"][0, ..., 0]
    return {
        "json.K": torch.from_numpy(released_intrinsics(float(t["json.focal_length"]), 8, 6)).float().expand(5, 3, 3),
        "json.w2c": se3_inverse(t["json.c2w"]),
        "scale.value": scale[None],
        "scale.w2c_normalised": relative[None],
        "cloud.points_raw": unproject(depth, K, se3_inverse(pose_w2c)),
        "cloud.points_fix_first": unproject(depth, K, se3_inverse(fixed)),
    }


def _sigmas(steps: int, shift: float, strength: float) -> Tensor:
    return FlowSchedule(steps=steps, shift=shift, strength=strength).sigmas[:-1]


def _square(w2c: Tensor) -> Tensor:
    bottom = w2c.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*w2c.shape[:-2], 1, 4)
    return torch.cat([w2c, bottom], dim=-2)
