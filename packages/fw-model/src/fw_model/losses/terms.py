"""The terms that the losses are made of: masked means, gradients in space and time, confidence weighting.

Each is pure, works in float32 or better, averages over the unmasked values, and is exactly 0 with zero gradients
when the mask leaves nothing. Targets outside the mask may be anything, NaN too.

Axes: b batch, F frames, H W pixels, c channels.
"""

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor


def masked_l1(
    prediction: Float[Tensor, "b F H W"],
    target: Float[Tensor, "b F H W"],
    mask: Bool[Tensor, "b F H W"],
    weight: Float[Tensor, "b F H W"] | None = None,
) -> Float[Tensor, ""]:
    """Mean of ``|d' - d|`` over the valid pixels, in the scene's own scale."""
    return masked_mean((at_least_float32(prediction) - known(target, mask)).abs(), mask, weight)


def temporal_gradient(
    prediction: Float[Tensor, "b F H W"],
    target: Float[Tensor, "b F H W"],
    mask: Bool[Tensor, "b F H W"],
    *,
    gate: float = 0.05,
) -> Float[Tensor, ""]:
    """Temporal gradient matching: mean of ``|(d'_{t+1} - d'_t) - (d_{t+1} - d_t)|`` (Video Depth Anything, eq. 4).

    Over pixels valid in both frames whose true depth changes by less than ``gate`` times the range of valid depth in
    frame t; larger changes are object borders crossing the pixel, not motion in depth.
    """
    if prediction.shape[1] < 2:
        return at_least_float32(prediction).sum() * 0.0
    target = known(target, mask)
    change, true_change = at_least_float32(prediction).diff(dim=1), target.diff(dim=1)
    highest = torch.where(mask, target, -torch.inf).flatten(2).amax(dim=2)
    lowest = torch.where(mask, target, torch.inf).flatten(2).amin(dim=2)
    limit = rearrange(gate * (highest - lowest)[:, :-1], "b f -> b f 1 1")
    both = mask[:, 1:] & mask[:, :-1] & (true_change.abs() < limit)
    return masked_mean((change - true_change).abs(), both)


def multiscale_gradient(
    prediction: Float[Tensor, "b F H W c"],
    target: Float[Tensor, "b F H W c"],
    mask: Bool[Tensor, "b F H W"],
    *,
    scales: int = 4,
    weight: Float[Tensor, "b F H W"] | None = None,
) -> Float[Tensor, ""]:
    """``sum_s (1/M_s) sum (|dx R_s| + |dy R_s|)``, R_s = every 2^s-th pixel of ``prediction - target`` (MiDaS, eq. 11).

    M_s counts the valid pixels of scale s; a difference counts if both its pixels are valid; several channels add up.
    With ``weight`` each difference is multiplied by the mean weight of its two pixels.
    """
    residual = torch.where(mask[..., None], at_least_float32(prediction) - known(target, mask[..., None]), 0.0)
    total = residual.sum() * 0.0
    for scale in range(scales):
        step = 2**scale
        r, m = residual[:, :, ::step, ::step], mask[:, :, ::step, ::step]
        w = None if weight is None else weight[:, :, ::step, ::step].to(r)
        count = m.sum().clamp_min(1)
        for dim in (2, 3):
            size = r.shape[dim] - 1
            pair = m.narrow(dim, 0, size) & m.narrow(dim, 1, size)
            difference = r.diff(dim=dim).abs().sum(dim=-1)
            if w is not None:
                difference = difference * (w.narrow(dim, 0, size) + w.narrow(dim, 1, size)) / 2
            total = total + torch.where(pair, difference, 0.0).sum() / count
    return total


def confidence_weighted(
    residual: Float[Tensor, "b F H W"],
    confidence: Float[Tensor, "b F H W"],
    mask: Bool[Tensor, "b F H W"],
    *,
    gamma: float = 1.0,
    alpha: float = 0.2,
    trim: float = 0.98,
    weight: Float[Tensor, "b F H W"] | None = None,
) -> Float[Tensor, ""]:
    """Mean of ``gamma c r - alpha log c`` over the valid pixels (VGGT, eq. 2); lowest at ``c = alpha / (gamma r)``.

    ``residual`` is not negative. Only the share ``trim`` of the valid pixels with the smallest terms counts, so that
    a few broken labels can't steer; with fewer than 1000 valid pixels all count.
    """
    confidence = at_least_float32(confidence)
    term = gamma * confidence * at_least_float32(residual) - alpha * confidence.log()
    kept = mask
    valid = term.detach()[mask]
    if trim < 1 and valid.numel() >= 1000:
        threshold = valid.kthvalue(max(1, int(trim * valid.numel()))).values
        kept = mask & (term.detach() <= threshold)
    return masked_mean(term, kept, weight)


def at_least_float32(x: Tensor) -> Tensor:
    """At least float32: bfloat16 sums of thousands of pixels are wrong in the first digit."""
    return x if x.dtype == torch.float64 else x.float()


def known(target: Tensor, mask: Tensor) -> Tensor:
    """The target with 0 where it is not valid: a NaN there would reach the gradients even under a mask."""
    return torch.where(mask, at_least_float32(target), 0.0)


def safe_norm(x: Tensor) -> Tensor:
    """Length along the last axis with a zero (not NaN) gradient at zero."""
    squared = x.square().sum(dim=-1)
    zero = squared == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, squared).sqrt())


def masked_mean(value: Tensor, mask: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean of ``weight * value`` over the mask; 0 if it is empty."""
    kept = torch.where(mask, value, 0.0)
    if weight is not None:
        kept = kept * weight.to(kept)
    return kept.sum() / mask.sum().clamp_min(1)
