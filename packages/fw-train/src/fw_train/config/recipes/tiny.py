"""Recipes of the small presets: `tiny`, minutes on a few clips; `small-world`, a core-day on rendered rooms."""

from dataclasses import replace

from fw_train.config.schema import (
    Cadence,
    ClipConfig,
    ComputeConfig,
    DropoutConfig,
    LoraConfig,
    NoiseConfig,
    OptimConfig,
    SamplingConfig,
    Stage,
    TrainConfig,
)


def tiny(stage: Stage) -> TrainConfig:
    """17 frames of 96x64, a few hundred steps; learning rates far above the paper's, because nothing is pretrained."""
    shared = TrainConfig(
        stage=stage,
        model="tiny",
        # as in generation, which knows the size of a scene from its first frame only
        clip=ClipConfig(frames=17, height=64, width=96, validate_on=8, scale_by_first_frame=stage != "base"),
        noise=NoiseConfig(shift=2.0),
        dropout=DropoutConfig(text=0.1),
        sampling=SamplingConfig(num_inference_steps=30, guidance_scale=1.5),
        every=Cadence(log=5, validate=20, checkpoint=20),
    )
    if stage == "autoencoder":
        optim = OptimConfig(lr=6e-4, betas=(0.9, 0.99), weight_decay=0.0, warmup=20, schedule="cosine")
        return replace(shared, steps=300, batch=4, optim=optim, every=Cadence(log=10, validate=100, checkpoint=50))
    if stage == "base":
        optim = OptimConfig(lr=4e-3, warmup=10, schedule="cosine")
        return replace(shared, steps=200, batch=4, optim=optim, every=Cadence(log=10, validate=50, checkpoint=50))
    if stage == "distill":
        optim = OptimConfig(lr=1e-3, warmup=10, schedule="cosine")
        loss = replace(shared.loss, geometry=0.3)
        return replace(shared, steps=60, batch=4, optim=optim, loss=loss, lora=LoraConfig(rank=16, alpha=16.0))
    return replace(shared, steps=60, batch=4, optim=OptimConfig(lr=1e-3, warmup=10, schedule="cosine"))


def small_world(stage: Stage) -> TrainConfig:
    """The included small world: rooms rendered while training, 17 frames of 96x144; about 20 core-hours with bf16.

    Every clip is drawn about seven times while it is in a window of a thousand. Stage 2 also trains the geometry branch
    and adapts the video blocks, which the paper freezes, because here neither is pretrained.
    """
    start = replace(
        tiny(stage),
        model="small_world",
        data="rooms",
        batch=8,
        clip=ClipConfig(
            frames=17, height=96, width=144, validate_on=32, scale_by_first_frame=True, cache_gb=4.0, pool=1024, reuse=7
        ),
        noise=NoiseConfig(shift=6.0, validation=(0.5, 0.8, 1.0)),
        sampling=SamplingConfig(num_inference_steps=30, guidance_scale=1.0, clips=6),
        every=Cadence(log=50, validate=1000, checkpoint=250, sample=5000),
        compute=ComputeConfig(precision="auto"),
    )
    optim = OptimConfig(lr=2e-3, betas=(0.9, 0.98), warmup=60, schedule="cosine", ema=0.9995)
    if stage == "autoencoder":
        optim = OptimConfig(lr=1.5e-3, betas=(0.9, 0.99), weight_decay=0.0, warmup=20, schedule="cosine")
        every = Cadence(log=50, validate=500, checkpoint=250, sample=2500)
        return replace(start, steps=2500, batch=4, optim=optim, every=every)
    if stage == "base":
        return replace(start, steps=35_000, optim=optim)
    # relative depth, no temporal term and confidences that affect no other output: few frames suffice
    loss = replace(
        start.loss,
        dense_frames=3,
        depth=replace(start.loss.depth, space="log", temporal=0.0, confidence=0.1),
        points=replace(start.loss.points, error="plain", confidence=0.1),
    )
    optim = replace(optim, betas=(0.9, 0.999), ema=0.998)
    every = replace(start.every, sample=1000, validate=500)
    if stage == "distill":
        lora, loss = LoraConfig(rank=64, alpha=64.0), replace(loss, geometry=0.3)
        return replace(start, steps=1000, optim=replace(optim, lr=1e-3), loss=loss, every=every, lora=lora)
    # translations are about a tenth of the unit of length, quaternions of these paths below 0.1: without weights their
    # loss is small beside that of depth, and the camera head learns mean rotations
    loss = replace(loss, camera=replace(loss.camera, translation=4.0, rotation=8.0))
    start = replace(start, loss=loss, every=every)
    if stage == "stage1":
        # at 2e-3 (and 1e-3 in stage 2) the translation loss of a trained branch rose sixfold within 150 steps
        return replace(start, steps=5000, optim=replace(optim, lr=5e-4), noise=replace(start.noise, shift=3.0))
    return replace(
        start,
        steps=5625,
        optim=replace(optim, lr=6e-4),
        loss=replace(start.loss, geometry=0.3),
        lora=LoraConfig(rank=32, alpha=32.0),
        unfreeze_geometry=True,
    )
