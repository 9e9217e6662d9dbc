"""The audio tower: HTSAT (Chen et al., arXiv 2202.00874), a Swin transformer over a folded spectrogram.

Between the patches and the final norm, tokens are (B, side², D) in the order of the windows that attend within
themselves: a block reorders them once, where cutting out windows and putting them back would copy them four times.
"""

import mlx.core as mx
import mlx.nn as nn

from mlx_mm.backend.attention import attend_windows
from mlx_mm.backend.border import read_rows
from mlx_mm.backend.linear import linear
from mlx_mm.backend.native.views import run
from mlx_mm.backend.norms import norm
from mlx_mm.backend.shaping import extract_patches, take_rows
from mlx_mm.backend.tables import made_once
from mlx_mm.errors import InputError
from mlx_mm.layers.attention import attention_weights
from mlx_mm.layers.interpolate import stretch
from mlx_mm.layers.outputs import TowerOutput
from mlx_mm.layers.transformer import MLP
from mlx_mm.models.clap.config import AudioConfig

HIDDEN = -100.0  # added to the score of tokens that only a shift made neighbours (Swin's own code; not infinity)
LONG_KERNEL = 3  # the kernel for the three parts of a long clip is three patches wide: side by side they fill a row


class FrozenBatchNorm(nn.Module):
    """Batch norm over the last axis, always with the statistics of training."""

    def __init__(self, dims: int):
        super().__init__()
        self.weight, self.bias = mx.ones((dims,)), mx.zeros((dims,))
        self.running_mean, self.running_var = mx.zeros((dims,)), mx.ones((dims,))

    def __call__(self, x: mx.array) -> mx.array:
        """(…, D) -> (…, D)."""
        scale = self.weight * mx.rsqrt(self.running_var.astype(mx.float32) + 1e-5)
        return ((x - self.running_mean) * scale + self.bias).astype(x.dtype)


class Squeeze(nn.Module):
    """Two 1×1 convolutions through a narrow middle, each with its batch norm, as channel attention has them."""

    def __init__(self, dims: int, inner: int):
        super().__init__()
        self.conv1, self.norm1 = nn.Linear(dims, inner), FrozenBatchNorm(inner)
        self.conv2, self.norm2 = nn.Linear(inner, dims), FrozenBatchNorm(dims)

    def __call__(self, x: mx.array) -> mx.array:
        """(…, D) -> (…, D)."""
        return self.norm2(linear(self.conv2, nn.relu(self.norm1(linear(self.conv1, x)))))


class AttentionalFusion(nn.Module):
    """Attentional feature fusion (Dai et al., arXiv 2009.14082) of a whole clip with parts of it.

    2·(m·whole + (1 − m)·parts) with a share m of each number; the factor is LAION's own.
    """

    def __init__(self, dims: int, ratio: int):
        super().__init__()
        self.local_att = Squeeze(dims, dims // ratio)
        self.global_att = Squeeze(dims, dims // ratio)

    def __call__(self, whole: mx.array, parts: mx.array) -> mx.array:
        """Two maps (B, S, S, D) -> (B, S, S, D)."""
        both = whole + parts
        mean = both.astype(mx.float32).mean(axis=(1, 2), keepdims=True)  # a sum of 4096 numbers overflows float16
        share = mx.sigmoid(self.local_att(both) + self.global_att(mean.astype(both.dtype)))
        return 2 * (whole * share + parts * (1 - share))


class PatchEmbed(nn.Module):
    """Patches of the folded spectrogram; of a clip that was cut, fused with those of three parts of it."""

    def __init__(self, config: AudioConfig):
        super().__init__()
        dims, area = config.patch_embeds_hidden_size, config.patch_size**2
        self.config = config
        self.proj = nn.Linear(area, dims)
        self.norm = nn.LayerNorm(dims)
        if config.enable_fusion:
            self.mel_conv2d = nn.Linear(LONG_KERNEL * area, dims)
            self.fusion_model = AttentionalFusion(dims, config.aff_block_r)

    def __call__(self, x: mx.array, longer: list[int]) -> mx.array:
        """Spectrograms (B, 1 or 4, T, F), T as long as the image needs -> (B, S, S, D), row-major. longer: the rows of
        clips that were cut."""
        whole = linear(self.proj, self._patches(x[:, 0]))
        if longer:
            cut = mx.array(longer)
            whole[cut] = self.fusion_model(whole[cut], self._parts(x[cut, 1:]))
        return norm(self.norm, whole)

    def _parts(self, x: mx.array) -> mx.array:
        """Parts (B, 3, T, F) -> (B, S, S, D): beside each other, with zeros in the columns that are left."""
        batch, parts, *spectrogram = x.shape
        patches = self._patches(x.reshape(batch * parts, *spectrogram))
        side = patches.shape[1]
        columns = side // LONG_KERNEL
        patches = patches[:, :, : columns * LONG_KERNEL].reshape(batch, parts, side, columns, -1)
        patches = linear(self.mel_conv2d, patches).swapaxes(1, 2).reshape(batch, side, parts * columns, -1)
        return mx.pad(patches, [(0, 0), (0, 0), (0, side - parts * columns), (0, 0)])

    def _patches(self, x: mx.array) -> mx.array:
        """(B, T, F) -> (B, S, S, p·p). The image has the parts of the time below each other, low mels on top."""
        batch, _, mels = x.shape
        folds, side = self.config.folds, self.config.grids[0]
        image = x.reshape(batch, folds, -1, mels).swapaxes(2, 3).reshape(batch, folds * mels, -1, 1)
        image = image.astype(self.proj.weight.dtype)
        return extract_patches(image, self.config.patch_size).reshape(batch, side, side, -1)


@made_once(64)
def window_order(side: int, window: int, shift: int) -> mx.array:
    """(side²,): the place on the grid, row-major, of each token in the order of windows rolled by `shift`."""
    count = side // window
    places = mx.arange(side * side).reshape(side, side)
    places = mx.roll(mx.roll(places, -shift, 0), -shift, 1)
    return places.reshape(count, window, count, window).transpose(0, 2, 1, 3).flatten()


@made_once(64)
def change_of_order(side: int, window: int, current: int | None, wanted: int | None) -> mx.array:
    """(side²,): the place in one order of each token in another. An order is that of windows rolled by a number, or
    None, row-major."""
    rows = mx.arange(side * side)
    before = rows if current is None else window_order(side, window, current)
    after = rows if wanted is None else window_order(side, window, wanted)
    return mx.argsort(before)[after]


@made_once(16)
def relative_positions(window: int) -> mx.array:
    """(w², w²): the row of the bias table for each pair of tokens in a window (Swin, arXiv 2103.14030, section 3.2)."""
    places = mx.arange(window * window)
    rows, cols = places // window, places % window
    span = 2 * window - 1
    return (rows[:, None] - rows + window - 1) * span + cols[:, None] - cols + window - 1


@made_once(16)
def shift_mask(side: int, window: int, shift: int) -> mx.array:
    """(windows, 1, w², w²): HIDDEN for pairs that came from opposite edges of the grid (Swin, figure 4), else 0."""
    along = mx.arange(side)
    band = (along >= side - window).astype(mx.int32) + (along >= side - shift)
    # Regions are bands of the rolled grid, so the order of the windows is that without a shift.
    regions = (3 * band[:, None] + band).flatten()[window_order(side, window, 0)].reshape(-1, 1, window * window)
    return mx.where(regions[..., None] == regions[..., None, :], 0.0, HIDDEN)


class WindowAttention(nn.Module):
    """Attention among the tokens of each window, with a learned bias for each relative position."""

    def __init__(self, config: AudioConfig, stage: int):
        super().__init__()
        dims, self.window = config.widths[stage], config.window_size
        self.num_heads = config.num_attention_heads[stage]
        self.q_proj = nn.Linear(dims, dims, bias=config.qkv_bias)
        self.k_proj = nn.Linear(dims, dims, bias=config.qkv_bias)
        self.v_proj = nn.Linear(dims, dims, bias=config.qkv_bias)
        self.out_proj = nn.Linear(dims, dims)
        self._scale = (dims // self.num_heads) ** -0.5
        self.relative_position_bias_table = mx.zeros(((2 * self.window - 1) ** 2, self.num_heads))

    def __call__(self, x: mx.array, hidden: mx.array | None, residual: mx.array) -> mx.array:
        """x (B, N, D) in window order, hidden (windows, 1, w², w²) or None -> (B, N, D), plus the residual."""
        attended = attend_windows(*self._heads(x), self._bias(hidden), scale=self._scale)
        return linear(self.out_proj, attended.swapaxes(1, 2).reshape(x.shape), residual=residual)

    def weights(self, x: mx.array, hidden: mx.array | None) -> mx.array:
        """The softmax weights, (B·windows, H, w², w²)."""
        q, k, _ = self._heads(x)
        bias = self._bias(hidden)
        return attention_weights(q, k, mx.tile(bias, (len(q) // len(bias), 1, 1, 1)))

    def _heads(self, x: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        """q, k, v (B·windows, H, w², d)."""

        def heads(projected: mx.array) -> mx.array:
            width = projected.shape[-1] // self.num_heads
            return projected.reshape(-1, self.window**2, self.num_heads, width).swapaxes(1, 2)

        return heads(linear(self.q_proj, x)), heads(linear(self.k_proj, x)), heads(linear(self.v_proj, x))

    def _bias(self, hidden: mx.array | None) -> mx.array:
        """What is added to the scores, (1 or windows, H, w², w²)."""
        bias = self.relative_position_bias_table[relative_positions(self.window)].transpose(2, 0, 1)
        return bias[None] if hidden is None else bias + hidden.astype(bias.dtype)


class SwinBlock(nn.Module):
    """Attention within windows and MLP, each with a residual and a norm before it."""

    def __init__(self, config: AudioConfig, stage: int):
        super().__init__()
        dims, eps = config.widths[stage], config.layer_norm_eps
        self.layer_norm1 = nn.LayerNorm(dims, eps=eps)
        self.self_attn = WindowAttention(config, stage)
        self.layer_norm2 = nn.LayerNorm(dims, eps=eps)
        self.mlp = MLP(dims, int(dims * config.mlp_ratio), config.hidden_act)

    def __call__(self, x: mx.array, hidden: mx.array | None) -> mx.array:
        """x (B, N, D) in window order, hidden as in WindowAttention -> (B, N, D)."""
        x = self.self_attn(norm(self.layer_norm1, x), hidden, residual=x)
        return self.mlp(norm(self.layer_norm2, x), residual=x)

    def attention_weights(self, x: mx.array, hidden: mx.array | None) -> mx.array:
        """The softmax weights of this block for its input."""
        return self.self_attn.weights(self.layer_norm1(x), hidden)


class PatchMerging(nn.Module):
    """Each 2×2 tokens become one of twice the width."""

    def __init__(self, dims: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * dims)
        self.reduction = nn.Linear(4 * dims, 2 * dims, bias=False)

    def __call__(self, x: mx.array, side: int) -> mx.array:
        """(B, side², D), row-major -> (B, side²/4, 2·D), row-major; of the four, rows vary fastest."""
        batch, _, dims = x.shape
        x = x.reshape(batch, side // 2, 2, side // 2, 2, dims).transpose(0, 1, 3, 4, 2, 5)
        return linear(self.reduction, norm(self.norm, x.reshape(batch, -1, 4 * dims)))


class Stage(nn.Module):
    """Blocks at one resolution, every second one with its windows shifted by half, then the merging of patches."""

    def __init__(self, config: AudioConfig, stage: int):
        super().__init__()
        self.side, self.window = config.grids[stage], config.window_size
        self.blocks = [SwinBlock(config, stage) for _ in range(config.depths[stage])]
        last = stage == len(config.depths) - 1
        self.downsample = None if last else PatchMerging(config.widths[stage])

    def __call__(self, x: mx.array, output_attentions: bool) -> tuple[mx.array, mx.array | None]:
        """(B, side², D), row-major -> the same for the next stage, and the weights of the last block if asked for."""
        shift = self.window // 2 if self.side > self.window else 0  # one window alone has no neighbours
        current, weights = None, None
        for number, block in enumerate(self.blocks):
            wanted = shift if number % 2 else 0
            if wanted != current:
                x, current = take_rows(x, change_of_order(self.side, self.window, current, wanted)), wanted
            hidden = shift_mask(self.side, self.window, shift) if wanted else None
            if output_attentions and number == len(self.blocks) - 1:
                weights = block.attention_weights(x, hidden)
            x = block(x, hidden)
        x = take_rows(x, change_of_order(self.side, self.window, current, None))
        return x if self.downsample is None else self.downsample(x, self.side), weights


class AudioTower(nn.Module):
    """`ClapAudioModel`."""

    def __init__(self, config: AudioConfig):
        super().__init__()
        self.config = config
        self.batch_norm = FrozenBatchNorm(config.num_mel_bins)
        self.patch_embed = PatchEmbed(config)
        self.layers = [Stage(config, stage) for stage in range(len(config.depths))]
        self.norm = nn.LayerNorm(config.hidden_size)

    def __call__(
        self,
        input_features: mx.array,
        is_longer: mx.array | None = None,
        *,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> TowerOutput:
        """Log-mel spectrograms (B, 1, T, F), or (B, 4, T, F) for a model with fusion -> TowerOutput.

        is_longer: (B, 1) or (B,), which clips have parts of their own in channels 1 to 3; the others' are not read.
        A model without fusion ignores it. T: any number of frames up to spec_size² / num_mel_bins, stretched to it.
        The output's shapes are transformers': last_hidden_state (B, D, rows of a part, columns of all parts),
        hidden_states (B, D, S, S), attentions of the last block of each stage, (B·windows, H, w², w²).
        Raises InputError for other shapes, or where fusion lacks is_longer.
        """
        longer = self._read_longer(input_features, is_longer)
        x = self.batch_norm(input_features.astype(mx.float32))
        length = self.config.spec_size * self.config.folds
        x = x if x.shape[2] == length else stretch(x, length)
        x = self.patch_embed(x, longer).flatten(1, 2)
        states, attentions = [_as_map(x)], list[mx.array]()
        if output_hidden_states or output_attentions:
            for stage in self.layers:
                x, weights = stage(x, output_attentions)
                states.append(_as_map(x))
                attentions += [] if weights is None else [weights]
            x = norm(self.norm, x)
        else:
            x = run(self._last_state, x)
        return TowerOutput(
            last_hidden_state=self._unfold(_as_map(x)),
            pooler_output=x.mean(axis=1),
            hidden_states=tuple(states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
        )

    def _last_state(self, x: mx.array) -> mx.array:
        for stage in self.layers:
            x, _ = stage(x, False)
        return norm(self.norm, x)

    def _unfold(self, x: mx.array) -> mx.array:
        """(B, D, S, S) -> (B, D, S / parts, parts·S): the parts of the time beside each other again."""
        batch, dims, side, _ = x.shape
        x = x.reshape(batch, dims, self.config.folds, -1, side).swapaxes(2, 3)
        return x.reshape(batch, dims, side // self.config.folds, -1)

    def _read_longer(self, x: mx.array, is_longer: mx.array | None) -> list[int]:
        """The rows of the clips that are fused with their parts; InputError for what cannot be encoded."""
        channels, mels = 4 if self.config.enable_fusion else 1, self.config.num_mel_bins
        frames = self.config.spec_size * self.config.folds
        if x.ndim != 4 or x.shape[1] != channels or x.shape[3] != mels or not 1 <= x.shape[2] <= frames:
            raise InputError(
                f"input_features have shape {x.shape}; this model takes (clips, {channels}, 1 to {frames} frames, "
                f"{mels} mels). Make them with the processor of this checkpoint."
            )
        if not self.config.enable_fusion:
            return []
        if is_longer is None or is_longer.size != x.shape[0]:
            found = "is missing" if is_longer is None else f"has shape {is_longer.shape}"
            raise InputError(
                f"is_longer {found}; a model with fusion needs it for each of {x.shape[0]} clips. "
                "Pass on what the processor gives beside input_features."
            )
        flags = [flag for flags in read_rows(is_longer) for flag in flags]
        return [row for row, flag in enumerate(flags) if flag]


def _as_map(x: mx.array) -> mx.array:
    """(B, side², D), row-major -> (B, D, side, side)."""
    batch, tokens, dims = x.shape
    side = int(tokens**0.5)
    return x.swapaxes(1, 2).reshape(batch, dims, side, side)
