"""The `tiny` recipe: three trainings in about three minutes on two CPU cores, 17 frames of 64x96."""

from fw_train.config import (
    Cadence,
    ClipConfig,
    DropoutConfig,
    NoiseConfig,
    OptimConfig,
    Stage,
    TrainConfig,
)


def tiny(stage: Stage) -> TrainConfig:
    """The small preset on a small dataset: learning rates far above the paper's 1e-5, because nothing is pretrained."""
    clip = ClipConfig(frames=17, height=64, width=96)
    noise = NoiseConfig(shift=2.0)
    if stage == "base":
        return TrainConfig(
            stage=stage,
            model="tiny",
            steps=200,
            batch=8,
            clip=clip,
            optim=OptimConfig(lr=2e-3, warmup=20, schedule="cosine"),
            noise=noise,
            dropout=DropoutConfig(text=0.1),
            every=Cadence(log=10, validate=50, checkpoint=100),
        )
    if stage == "stage1":
        return TrainConfig(
            stage=stage,
            model="tiny",
            steps=100,
            batch=4,
            clip=clip,
            optim=OptimConfig(lr=1e-3, warmup=10, schedule="cosine"),
            noise=noise,
            dropout=DropoutConfig(text=0.1),
            every=Cadence(log=10, validate=25, checkpoint=50),
        )
    return TrainConfig(
        stage=stage,
        model="tiny",
        steps=100,
        batch=4,
        clip=clip,
        optim=OptimConfig(lr=2e-3, warmup=10, schedule="cosine"),
        noise=noise,
        dropout=DropoutConfig(text=0.1, camera=0.05),
        every=Cadence(log=10, validate=25, checkpoint=50),
    )
