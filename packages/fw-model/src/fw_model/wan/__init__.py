"""The Wan video backbone: `WanEmbeddings` around the blocks, `WanBlock`, and the Fun family's control adapter."""

from fw_model.wan.blocks import ContextKV, VideoStep, WanBlock
from fw_model.wan.control_adapter import ControlAdapter
from fw_model.wan.embeddings import WanEmbeddings

__all__ = ["ContextKV", "ControlAdapter", "VideoStep", "WanBlock", "WanEmbeddings"]
