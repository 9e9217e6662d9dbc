"""The chat model in torch, under the tensor names of GLM-4.6V-Flash, for batches whose pictures have one size.

transformers' class computes the same, picture by picture, which takes several times as long at these sizes;
`glm_release.py` loads what is saved into it.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

WIDTH, LAYERS, HEADS, KV_HEADS, HEAD, MLP = 192, 5, 6, 2, 32, 384
VISION_WIDTH, VISION_LAYERS, VISION_HEADS, MERGER_MLP = 128, 4, 4, 384
PATCH, TABLE = 14, 8  # the position table has a row for each patch of a picture of 112 x 112 pixels
THETA, SECTIONS, ROTARY = 10000.0, (2, 3, 3), 16
EPS = 1e-5
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])


class Norm(nn.Module):
    def __init__(self, width: int, start: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.full((width,), start))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) * self.weight


def linear(inside: int, outside: int, bias: bool = False) -> nn.Linear:
    layer = nn.Linear(inside, outside, bias=bias)
    nn.init.normal_(layer.weight, std=inside**-0.5)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


class Gated(nn.Module):
    """The MLP of the vision tower's blocks and of the merger."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = linear(width, inner), linear(width, inner), linear(inner, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class VisionAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.proj = linear(VISION_WIDTH, 3 * VISION_WIDTH), linear(VISION_WIDTH, VISION_WIDTH)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        count, length, _ = x.shape
        q, k, v = self.qkv(x).view(count, length, 3, VISION_HEADS, -1).permute(2, 0, 3, 1, 4)
        q, k = q * cos + halves_turned(q) * sin, k * cos + halves_turned(k) * sin
        weights = torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, -1)
        return self.proj((weights @ v).transpose(1, 2).reshape(count, length, -1))


def halves_turned(x: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat([-second, first], -1)


class VisionBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = Norm(VISION_WIDTH), Norm(VISION_WIDTH)
        self.attn, self.mlp = VisionAttention(), Gated(VISION_WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x), cos, sin)
        return x + self.mlp(self.norm2(x))


class Merger(Gated):
    def __init__(self):
        super().__init__(WIDTH, MERGER_MLP)
        self.proj, self.post_projection_norm = linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(F.gelu(self.post_projection_norm(self.proj(x))))


class Vision(nn.Module):
    """uint8 (B, H, W, 3) -> (B, tokens, WIDTH). Both frames of a pair weigh the same: it sees stills."""

    def __init__(self):
        super().__init__()
        self.patch_embed = nn.ModuleDict({"proj": nn.Linear(3 * PATCH * PATCH, VISION_WIDTH)})
        self.post_conv_layernorm, self.post_layernorm = Norm(VISION_WIDTH), Norm(VISION_WIDTH)
        self.embeddings = nn.ModuleDict({"position_embedding": nn.Embedding(TABLE * TABLE, VISION_WIDTH)})
        self.blocks = nn.ModuleList(VisionBlock() for _ in range(VISION_LAYERS))
        self.downsample = nn.Conv2d(VISION_WIDTH, WIDTH, 2, 2)
        self.merger = Merger()
        nn.init.normal_(self.embeddings["position_embedding"].weight, std=0.3)
        nn.init.normal_(self.downsample.weight, std=(4 * VISION_WIDTH) ** -0.5)
        nn.init.zeros_(self.downsample.bias)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        patches, rows, cols = to_patches(pictures)
        cos, sin = vision_angles(rows, cols)
        table = self.embeddings["position_embedding"].weight.view(1, TABLE, TABLE, -1).permute(0, 3, 1, 2)
        if (rows, cols) != (TABLE, TABLE):
            table = F.interpolate(table, size=(rows, cols), mode="bicubic", align_corners=False)
        positions = blocks_of(table[0].permute(1, 2, 0))
        x = self.post_conv_layernorm(self.patch_embed["proj"](patches)) + positions
        for block in self.blocks:
            x = block(x, cos, sin)
        x = self.post_layernorm(x)
        weight = self.downsample.weight.permute(0, 2, 3, 1).reshape(WIDTH, -1)
        x = F.linear(x.reshape(len(x), rows * cols // 4, -1), weight, self.downsample.bias)
        return self.merger(x)


def to_patches(pictures: torch.Tensor) -> tuple[torch.Tensor, int, int]:
    """Normalised flat patches (channel, row, column), 2 x 2 of them side by side; and how many rows and columns."""
    count, height, width, _ = pictures.shape
    rows, cols = height // PATCH, width // PATCH
    pixels = (pictures.float() / 255 - MEAN) / STD
    pixels = pixels.view(count, rows // 2, 2, PATCH, cols // 2, 2, PATCH, 3).permute(0, 1, 4, 2, 5, 7, 3, 6)
    return pixels.reshape(count, rows * cols, -1), rows, cols


def blocks_of(grid: torch.Tensor) -> torch.Tensor:
    """(rows, cols, ...) -> (rows * cols, ...), 2 x 2 blocks one after the other."""
    rows, cols = grid.shape[:2]
    return grid.reshape(rows // 2, 2, cols // 2, 2, -1).transpose(1, 2).reshape(rows * cols, -1)


def vision_angles(rows: int, cols: int) -> tuple[torch.Tensor, torch.Tensor]:
    pairs = VISION_WIDTH // VISION_HEADS // 4
    inverse = 10000.0 ** -(torch.arange(pairs) / pairs)
    row, col = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
    places = blocks_of(torch.stack([row, col], -1).float())
    angles = torch.cat([places[:, :1] * inverse, places[:, 1:] * inverse], -1).repeat(1, 2)
    return angles.cos(), angles.sin()


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q_proj = linear(WIDTH, HEADS * HEAD, bias=True)
        self.k_proj = linear(WIDTH, KV_HEADS * HEAD, bias=True)
        self.v_proj = linear(WIDTH, KV_HEADS * HEAD, bias=True)
        self.o_proj = linear(HEADS * HEAD, WIDTH)

    def forward(self, x, cos, sin, mask):
        count, length, _ = x.shape
        q = self.q_proj(x).view(count, length, HEADS, HEAD).transpose(1, 2)
        k = self.k_proj(x).view(count, length, KV_HEADS, HEAD).transpose(1, 2)
        v = self.v_proj(x).view(count, length, KV_HEADS, HEAD).transpose(1, 2)
        q, k = turned(q, cos, sin), turned(k, cos, sin)
        q = q.reshape(count, KV_HEADS, HEADS // KV_HEADS * length, HEAD)  # the heads of a key side by side
        scores = (q @ k.transpose(-1, -2) * HEAD**-0.5).view(count, HEADS, length, length) + mask
        weights = torch.softmax(scores, -1).view(count, KV_HEADS, -1, length)
        return self.o_proj((weights @ v).view(count, HEADS, length, HEAD).transpose(1, 2).reshape(count, length, -1))


def turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Neighbouring channels of the first half turn as pairs."""
    first, second = x[..., 0:ROTARY:2], x[..., 1:ROTARY:2]
    pairs = torch.stack([first * cos - second * sin, second * cos + first * sin], -1)
    return torch.cat([pairs.flatten(-2), x[..., ROTARY:]], -1)


class TextMlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate_up_proj, self.down_proj = linear(WIDTH, 2 * MLP), linear(MLP, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = self.gate_up_proj(x).chunk(2, -1)
        return self.down_proj(F.silu(gate) * up)


class TextLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = Norm(WIDTH), Norm(WIDTH)
        self.post_self_attn_layernorm, self.post_mlp_layernorm = Norm(WIDTH, 0.4), Norm(WIDTH, 0.4)
        self.self_attn, self.mlp = Attention(), TextMlp()

    def forward(self, x, cos, sin, mask):
        x = x + self.post_self_attn_layernorm(self.self_attn(self.input_layernorm(x), cos, sin, mask))
        return x + self.post_mlp_layernorm(self.mlp(self.post_attention_layernorm(x)))


class Text(nn.Module):
    def __init__(self, vocabulary: int):
        super().__init__()
        self.embed_tokens = nn.Embedding(vocabulary, WIDTH)
        self.layers = nn.ModuleList(TextLayer() for _ in range(LAYERS))
        self.norm = Norm(WIDTH)
        nn.init.normal_(self.embed_tokens.weight, std=0.5)

    def forward(self, embedded: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """embedded (B, L, WIDTH), positions int (3, B, L), padding on the right."""
        inverse = THETA ** -(torch.arange(0, ROTARY, 2) / ROTARY)
        axis = torch.repeat_interleave(torch.arange(3), torch.tensor(SECTIONS))
        angles = positions.permute(1, 2, 0)[..., axis].float() * inverse
        cos, sin = angles.cos()[:, None], angles.sin()[:, None]
        length = embedded.shape[1]
        mask = torch.full((length, length), -math.inf).triu(1)
        for layer in self.layers:
            embedded = layer(embedded, cos, sin, mask)
        return self.norm(embedded)


class Chat(nn.Module):
    def __init__(self, vocabulary: int):
        super().__init__()
        self.model = nn.ModuleDict({"visual": Vision(), "language_model": Text(vocabulary)})
        self.lm_head = linear(WIDTH, vocabulary)

    @property
    def visual(self) -> Vision:
        return self.model["visual"]

    def forward(self, ids, positions, pictures, is_picture, wanted) -> torch.Tensor:
        """Logits after the tokens that `wanted` marks. ids (B, L); is_picture, wanted: bool (B, L)."""
        embedded = self.model["language_model"].embed_tokens(ids)
        if pictures is not None:
            seen = self.visual(pictures).flatten(0, 1)
            embedded = embedded.masked_scatter(is_picture[..., None], seen)
        return self.lm_head(self.model["language_model"](embedded, positions)[wanted])


def positions_of(kinds: list[int], rows: int, cols: int) -> torch.Tensor:
    """(3, L): kinds is 0 for text and 1 for picture tokens, whose runs are whole pictures of rows x cols tokens."""
    out, now, place = torch.zeros(3, len(kinds), dtype=torch.long), 0, 0
    row, col = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
    grid = torch.stack([torch.zeros(rows * cols, dtype=torch.long), row.flatten(), col.flatten()])
    while place < len(kinds):
        if kinds[place]:
            out[:, place : place + rows * cols] = now + grid
            place, now = place + rows * cols, now + max(rows, cols)
        else:
            out[:, place] = now
            place, now = place + 1, now + 1
    return out
