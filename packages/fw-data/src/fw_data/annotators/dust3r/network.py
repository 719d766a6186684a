"""The pair network: two images in, a point and a confidence for every pixel of both out, in the first one's camera.

Written from the description of DUSt3R (Wang et al., CVPR 2024): a ViT encoder for each view, two decoders that read
from each other, two heads. Parameter names and shapes are those of the released checkpoints.
Axis legend: b batch, n m tokens of view 1 and 2, d width, H W pixels of view 1, I J pixels of view 2.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fw_data.annotators.dust3r.heads import DptHead, LinearHead, head_precision, map_output
from fw_data.annotators.dust3r.layers import NORM_EPS, DecoderBlock, EncoderBlock, rotary_code, token_positions

HEAD_DIM = 64
"""Width of one attention head in every released checkpoint; not visible in tensor shapes."""


@dataclass(frozen=True, kw_only=True)
class Dust3rConfig:
    """Sizes of the network; the defaults are those of the released 512_dpt."""

    encoder_dim: int = 1024
    """Width of the encoder."""
    encoder_depth: int = 24
    """Blocks of the encoder."""
    encoder_heads: int = 16
    """Attention heads of the encoder."""
    decoder_dim: int = 768
    """Width of the decoders."""
    decoder_depth: int = 12
    """Blocks of each decoder."""
    decoder_heads: int = 12
    """Attention heads of the decoders."""
    head: Literal["dpt", "linear"] = "dpt"
    """Which head turns tokens into pixels."""
    dpt_dims: tuple[int, int, int, int] = (96, 192, 384, 768)
    """Widths of the DPT head's four levels."""
    dpt_features: int = 256
    """Common width of its fusion."""
    dpt_last: int = 128
    """Width before its output."""
    patch: int = 16
    """Side of a patch in pixels."""
    mlp_ratio: int = 4
    """Hidden width of the MLPs over the width."""

    def __post_init__(self) -> None:
        for part in ("encoder", "decoder"):
            dim, heads = getattr(self, f"{part}_dim"), getattr(self, f"{part}_heads")
            if dim % (4 * heads):
                raise ValueError(
                    f"{part}_dim {dim} with {heads} heads: the width of a head must be a multiple of 4, because half "
                    "of it turns with the row, half with the column, and each half in pairs"
                )


def config_of(shapes: Mapping[str, tuple[int, ...]]) -> Dust3rConfig:
    """The sizes of a checkpoint, read from its tensor shapes; heads are taken to be 64 wide, as released ones are.

    Raises:
        ValueError: a tensor that every such checkpoint has is missing.
    """
    try:
        encoder_dim, _, patch, _ = shapes["patch_embed.proj.weight"]
        decoder_dim = shapes["decoder_embed.weight"][0]
        hidden = shapes["enc_blocks.0.mlp.fc1.weight"][0]
        dpt: dict[str, object] = {}
        if "downstream_head1.proj.weight" not in shapes:
            name = "downstream_head1.dpt."
            dpt = {
                "dpt_dims": tuple(shapes[f"{name}act_postprocess.{level}.0.weight"][0] for level in range(4)),
                "dpt_features": shapes[f"{name}head.0.weight"][1],
                "dpt_last": shapes[f"{name}head.2.weight"][0],
            }
    except KeyError as error:
        raise ValueError(
            f"these are not the tensors of a DUSt3R network: {error.args[0]} is missing. Give the safetensors of a "
            "released checkpoint (DUSt3R_ViTLarge_BaseDecoder_512_dpt, _512_linear or _224_linear)."
        ) from error
    return Dust3rConfig(
        encoder_dim=encoder_dim,
        encoder_depth=_blocks(shapes, "enc_blocks"),
        encoder_heads=max(1, encoder_dim // HEAD_DIM),
        decoder_dim=decoder_dim,
        decoder_depth=_blocks(shapes, "dec_blocks"),
        decoder_heads=max(1, decoder_dim // HEAD_DIM),
        head="dpt" if dpt else "linear",
        patch=patch,
        mlp_ratio=hidden // encoder_dim,
        **dpt,  # pyright: ignore[reportArgumentType] - the three fields above
    )


class EncodedFrames(NamedTuple):
    """Encoder features of images of one size; computed once per frame, used in every pair."""

    tokens: Float[Tensor, "b n d"]
    """Encoded patches, row-major."""
    grid: tuple[int, int]
    """Rows and columns of patches."""


class PairOutput(NamedTuple):
    """Points of both views in the camera of view 1, in a unit of the pair, and their confidence (at least 1)."""

    points1: Float[Tensor, "b H W 3"]
    confidence1: Float[Tensor, "b H W"]
    points2: Float[Tensor, "b I J 3"]
    confidence2: Float[Tensor, "b I J"]


class Dust3rNetwork(nn.Module):
    """`encode` every frame once, then `decode` any pairs of them; `forward` does both for one batch of pairs."""

    def __init__(self, config: Dust3rConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, config.encoder_dim, config.patch, stride=config.patch)})
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.decoder_dim))  # in checkpoints; not used here
        self.enc_blocks = nn.ModuleList(
            EncoderBlock(config.encoder_dim, config.encoder_heads, config.mlp_ratio)
            for _ in range(config.encoder_depth)
        )
        self.enc_norm = nn.LayerNorm(config.encoder_dim, eps=NORM_EPS)
        self.decoder_embed = nn.Linear(config.encoder_dim, config.decoder_dim)
        self.dec_blocks = self._decoder()
        self.dec_blocks2 = self._decoder()
        self.dec_norm = nn.LayerNorm(config.decoder_dim, eps=NORM_EPS)
        self.downstream_head1: LinearHead | DptHead = self._head()
        self.downstream_head2: LinearHead | DptHead = self._head()

    def forward(self, image1: Float[Tensor, "b 3 H W"], image2: Float[Tensor, "b 3 I J"]) -> PairOutput:
        """Points of both images of each pair. Images are RGB in [-1, 1], their sides multiples of the patch."""
        return self.decode(self.encode(image1), self.encode(image2))

    def encode(self, image: Float[Tensor, "b 3 H W"]) -> EncodedFrames:
        """Tokens of images, RGB in [-1, 1]; ValueError for sides that are no multiples of the patch."""
        height, width = image.shape[-2:]
        patch = self.config.patch
        if height % patch or width % patch:
            raise ValueError(f"an image of {height}x{width}: both sides must be multiples of {patch}")
        embedded = self.patch_embed["proj"](image)
        grid = (embedded.shape[-2], embedded.shape[-1])
        x = embedded.flatten(2).transpose(1, 2)
        code = self._code(grid, self.config.encoder_dim // self.config.encoder_heads, image.device)
        for block in self.enc_blocks:
            x = block(x, code)
        return EncodedFrames(self.enc_norm(x), grid)

    def decode(self, view1: EncodedFrames, view2: EncodedFrames) -> PairOutput:
        """Points of both views of each pair from their tokens."""
        tokens1, tokens2 = self.decoder_tokens(view1, view2)
        with torch.autocast(view1.tokens.device.type, enabled=False):
            raw1 = self.downstream_head1(head_precision(tokens1), view1.grid)
            raw2 = self.downstream_head2(head_precision(tokens2), view2.grid)
            return PairOutput(*map_output(raw1), *map_output(raw2))

    def decoder_tokens(self, view1: EncodedFrames, view2: EncodedFrames) -> tuple[list[Tensor], list[Tensor]]:
        """For each view the encoder's tokens and then those after every decoder block, the last one normed."""
        head_dim = self.config.decoder_dim // self.config.decoder_heads
        code1, code2 = (self._code(view.grid, head_dim, view.tokens.device) for view in (view1, view2))
        x, y = self.decoder_embed(view1.tokens), self.decoder_embed(view2.tokens)
        all1, all2 = [view1.tokens], [view2.tokens]
        for block1, block2 in zip(self.dec_blocks, self.dec_blocks2, strict=True):
            x, y = block1(x, y, code1, code2), block2(y, x, code2, code1)
            all1.append(x)
            all2.append(y)
        all1[-1], all2[-1] = self.dec_norm(x), self.dec_norm(y)
        return all1, all2

    def _code(self, grid: tuple[int, int], head_dim: int, device: torch.device) -> Float[Tensor, "2 n k"]:
        return rotary_code(token_positions(*grid, device=device), head_dim)

    def _decoder(self) -> nn.ModuleList:
        config = self.config
        return nn.ModuleList(
            DecoderBlock(config.decoder_dim, config.decoder_heads, config.mlp_ratio)
            for _ in range(config.decoder_depth)
        )

    def _head(self) -> LinearHead | DptHead:
        config = self.config
        if config.head == "linear":
            return LinearHead(config.decoder_dim, config.patch)
        return DptHead(
            encoder_dim=config.encoder_dim,
            decoder_dim=config.decoder_dim,
            decoder_depth=config.decoder_depth,
            dims=config.dpt_dims,
            features=config.dpt_features,
            last=config.dpt_last,
        )


def _blocks(shapes: Mapping[str, tuple[int, ...]], name: str) -> int:
    return 1 + max(int(key.split(".")[1]) for key in shapes if key.startswith(f"{name}."))
