"""The text tower: RoBERTa (Liu et al., arXiv 1907.11692), pooled at its first token."""

import mlx.core as mx
import mlx.nn as nn

from mlx_mm.backend.border import read_rows
from mlx_mm.backend.linear import linear
from mlx_mm.backend.norms import norm
from mlx_mm.errors import InputError
from mlx_mm.layers.attention import key_mask
from mlx_mm.layers.outputs import TowerOutput
from mlx_mm.layers.transformer import Encoder
from mlx_mm.models.clap.config import TextConfig


class TextEmbeddings(nn.Module):
    """Token, position and token-type embeddings, normalised. Every token is of type 0."""

    def __init__(self, config: TextConfig):
        super().__init__()
        dims = config.hidden_size
        self.pad, self.max_length = config.pad_token_id, config.max_length
        self.token_embedding = nn.Embedding(config.vocab_size, dims)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, dims)
        self.token_type_embedding = nn.Embedding(config.type_vocab_size, dims)
        self.layer_norm = nn.LayerNorm(dims, eps=config.layer_norm_eps)

    def __call__(self, input_ids: mx.array, position_ids: mx.array | None) -> mx.array:
        """(B, L) -> (B, L, D). Raises InputError for a position beyond the table."""
        # MLX does not check indices. Counted positions are within the table unless the array itself is too long.
        if position_ids is not None or input_ids.shape[1] > self.max_length:
            self._check_positions(input_ids, position_ids)
        positions = self._count(input_ids) if position_ids is None else position_ids
        x = self.token_embedding(input_ids) + self.token_type_embedding.weight[0]
        return norm(self.layer_norm, x + self.position_embedding(positions))

    def _count(self, input_ids: mx.array) -> mx.array:
        """Positions from pad + 1 on, and pad for padding, as RoBERTa was trained by fairseq."""
        real = (input_ids != self.pad).astype(mx.int32)
        return mx.cumsum(real, axis=-1) * real + self.pad

    def _check_positions(self, input_ids: mx.array, position_ids: mx.array | None) -> None:
        if position_ids is None:
            longest = max(len(ids) - ids.count(self.pad) for ids in read_rows(input_ids))
        else:
            longest = max(int(max(places)) for places in read_rows(position_ids)) - self.pad
        if longest > self.max_length:
            raise InputError(
                f"input_ids have {longest} tokens, or position_ids that say so; "
                f"this model takes at most {self.max_length}. Truncate the text."
            )


class TextTower(nn.Module):
    """`ClapTextModel`."""

    def __init__(self, config: TextConfig):
        super().__init__()
        self.embeddings = TextEmbeddings(config)
        self.encoder = Encoder(config, norm_first=False)
        self.pooler = nn.Linear(config.hidden_size, config.hidden_size)

    def __call__(
        self,
        input_ids: mx.array,
        attention_mask: mx.array | None = None,
        position_ids: mx.array | None = None,
        *,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> TowerOutput:
        """input_ids (B, L), padded on the right: a text's vector is read at its first token.

        attention_mask (B, L), 1 = real; None hides the padding tokens, where transformers would show them.
        """
        mask = input_ids != self.embeddings.pad if attention_mask is None else attention_mask
        encoded = self.encoder(
            self.embeddings(input_ids, position_ids),
            key_mask(mask),
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        return TowerOutput(
            last_hidden_state=encoded.last_hidden_state,
            pooler_output=mx.tanh(linear(self.pooler, encoded.last_hidden_state[:, 0])),
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )
