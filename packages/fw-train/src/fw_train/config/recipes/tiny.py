"""The small preset: `tiny`, minutes on a few clips; `small-world`, hours on a thousand of them."""

from dataclasses import replace

from fw_train.config.schema import (
    Cadence,
    ClipConfig,
    DropoutConfig,
    NoiseConfig,
    OptimConfig,
    SamplingConfig,
    Stage,
    TrainConfig,
)


def tiny(stage: Stage) -> TrainConfig:
    """17 frames of 64x96, a few hundred steps; learning rates far above the paper's 1e-5: nothing is pretrained."""
    shared = TrainConfig(
        stage=stage,
        model="tiny",
        # generation knows no more of a scene's size than its first frame shows
        clip=ClipConfig(frames=17, height=64, width=96, validate_on=8, scale_by_first_frame=True),
        noise=NoiseConfig(shift=2.0),
        dropout=DropoutConfig(text=0.1),
        sampling=SamplingConfig(steps=30, guidance=1.5),
        every=Cadence(log=5, validate=20, checkpoint=20),
    )
    if stage == "autoencoder":
        optim = OptimConfig(lr=6e-4, betas=(0.9, 0.99), weight_decay=0.0, warmup=20, schedule="cosine")
        return replace(shared, steps=300, batch=4, optim=optim, every=Cadence(log=10, validate=100, checkpoint=50))
    if stage == "base":
        optim = OptimConfig(lr=4e-3, warmup=10, schedule="cosine")
        return replace(shared, steps=200, batch=4, optim=optim, every=Cadence(log=10, validate=50, checkpoint=50))
    return replace(shared, steps=60, batch=4, optim=OptimConfig(lr=1e-3, warmup=10, schedule="cosine"))


def small_world(stage: Stage) -> TrainConfig:
    """A small world in earnest: for the 2,400 clips of `fw-data toy --clips 2400 --takes 6`, some hours on two cores.

    Stage 2 goes on training the geometry branch, which the paper freezes: it starts from nothing here. Before it,
    `make small-world` runs a longer stage 2 for the video's loss alone, with LoRA, from which the camera is learned.
    """
    start = replace(tiny(stage), every=Cadence(log=25, validate=200, checkpoint=100))
    clip = replace(start.clip, cache_gb=6.0, validate_on=32)
    if stage == "autoencoder":
        return replace(start, clip=clip, steps=1500, batch=8)
    if stage == "base":
        optim = OptimConfig(lr=2e-3, warmup=50, schedule="cosine", ema=0.995)
        return replace(start, clip=clip, steps=3000, batch=16, optim=optim)
    optim = OptimConfig(lr=1e-3, warmup=50, schedule="cosine", ema=0.995)
    start = replace(start, clip=clip, steps=1000, batch=8, optim=optim)
    if stage == "stage1":
        return start
    optim = replace(optim, warmup=20, ema=0.99)
    noise, loss = replace(start.noise, shift=4.0), replace(start.loss, geometry=0.1)
    return replace(start, steps=400, optim=optim, unfreeze_geometry=True, noise=noise, loss=loss)
