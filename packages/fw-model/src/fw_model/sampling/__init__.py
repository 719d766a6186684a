"""Flow matching: noise levels and noise, samplers, the denoising loop, and step reuse."""
