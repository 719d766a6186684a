"""The paper's recipe, and the same training cut to one GPU of 24 GB, one of 80 GB, and eight.

All are for stages 1 and 2, and the distillation, of a pretrained Wan model (by default `--model wan21_fun_1_3b`). They
differ in batch and micro-batches, and on 24 GB in the size of a clip; `fw-train plan` shows that each fits. The frozen
encoders run before the training, so they never share the GPU with it.
"""

from dataclasses import replace

from fw_train.config.schema import (
    Cadence,
    ClipConfig,
    ComputeConfig,
    ConfigError,
    DistillConfig,
    DropoutConfig,
    LoraConfig,
    LossConfig,
    OptimConfig,
    Stage,
    TrainConfig,
)


def paper(stage: Stage) -> TrainConfig:
    """Section 4.1: AdamW at 1e-5, 81 frames of 592x336; 20,000 steps of 64 samples, then 10,000 of 112.

    Clips are landscape, portrait or square. The paper does not state warm-up, weight decay, clipping, dropout
    and the lower rate of the camera adapters, whose ReLUs die at high rates. The paper does not distill: the rank, rate
    and length of `distill` are ours and not tried at this size.
    """
    _not_base(stage)
    steps, batch = (20_000, 64) if stage == "stage1" else (10_000, 112)
    recipe = TrainConfig(
        stage=stage,
        model="wan21_fun_1_3b",
        steps=steps,
        batch=batch,
        clip=ClipConfig(
            frames=81,
            height=336,
            width=592,
            aspect_buckets=True,
            held_out=0.01,
            validate_on=8,
            cache_gb=8.0,
            num_workers=4,
            encode_first=True,
        ),
        optim=OptimConfig(lr=1e-5, warmup=200, camera_adapter_lr=0.3 if stage == "stage2" else 1.0),
        dropout=DropoutConfig(text=0.1),
        compute=ComputeConfig(precision="bf16", frozen_dtype="bf16", activation_checkpointing="full"),
        every=Cadence(log=10, validate=500, checkpoint=500),
    )
    if stage != "distill":
        return recipe
    return replace(
        recipe,
        steps=3000,
        batch=64,
        optim=replace(recipe.optim, lr=1e-4),
        loss=LossConfig(geometry=0.3),
        lora=LoraConfig(rank=64, alpha=64.0),
        distill=DistillConfig(guidance_scale=5.0),
    )


def eight_gpu(stage: Stage) -> TrainConfig:
    """The paper's batches on 8 GPUs: 8 micro-batches of one sample a GPU in stage 1, 14 in stage 2."""
    recipe = paper(stage)
    return replace(recipe, accumulate=recipe.batch // 8)


def one_gpu_80gb(stage: Stage) -> TrainConfig:
    """The paper's clips, a quarter (stage 1) or a seventh (stage 2) of its batch, sample by sample."""
    return replace(paper(stage), batch=16, accumulate=16)


def one_gpu_24gb(stage: Stage) -> TrainConfig:
    """Clips of 416x240, 49 frames in stage 1, 81 in stage 2; batches of 8, the optimizer's state in host memory."""
    recipe = replace(paper(stage), batch=8, accumulate=8)
    frames = 49 if stage == "stage1" else 81
    return replace(
        recipe,
        clip=replace(recipe.clip, frames=frames, height=240, width=416),
        compute=replace(recipe.compute, offload_optimizer=True),
    )


def _not_base(stage: Stage) -> None:
    if stage in ("autoencoder", "base"):
        raise ConfigError(
            f"this recipe starts from a pretrained Wan model and has no `{stage}`; run `fw-train init` and `stage1`"
        )
