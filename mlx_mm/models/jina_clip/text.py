"""The text tower: XLM-RoBERTa (Conneau et al., arXiv 1911.02116) with rotary positions, pooled by its mean."""

import mlx.core as mx
import mlx.nn as nn

from mlx_mm.backend.norms import norm
from mlx_mm.layers.attention import key_mask
from mlx_mm.layers.outputs import TowerOutput
from mlx_mm.layers.rope import line_angles, rotate_halves
from mlx_mm.layers.transformer import Encoder
from mlx_mm.models.jina_clip.config import TextConfig


class TextEmbeddings(nn.Module):
    """Token and token-type embeddings, normalised. Every token is of type 0; positions come with the attention."""

    def __init__(self, config: TextConfig):
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.token_type_embedding = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def __call__(self, input_ids: mx.array) -> mx.array:
        """(B, L) -> (B, L, D)."""
        return norm(self.layer_norm, self.token_embedding(input_ids) + self.token_type_embedding.weight[0])


class TextTower(nn.Module):
    """`XLMRobertaModel` of jina-embeddings-v3, without its adapters, which `sanitize` has merged."""

    def __init__(self, config: TextConfig):
        super().__init__()
        self.embeddings = TextEmbeddings(config)
        self.encoder = Encoder(config, norm_first=False)
        self._pad = config.pad_token_id
        self._base = config.rotary_emb_base
        self._head_dims = config.hidden_size // config.num_attention_heads

    def __call__(
        self,
        input_ids: mx.array,
        attention_mask: mx.array | None = None,
        *,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> TowerOutput:
        """input_ids (B, L), padded on the right to any length.

        attention_mask (B, L), 1 = real: what is read and averaged; None leaves out the padding tokens. pooler_output
        is float32.
        """
        mask = (input_ids != self._pad) if attention_mask is None else attention_mask != 0
        encoded = self.encoder(
            self.embeddings(input_ids),
            key_mask(mask),
            rotate_halves(line_angles(input_ids.shape[1], self._head_dims, self._base)),
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        weights = mask.astype(mx.float32)[..., None]  # a sum of 8,192 numbers overflows float16
        total = (encoded.last_hidden_state.astype(mx.float32) * weights).sum(axis=1)
        return TowerOutput(
            last_hidden_state=encoded.last_hidden_state,
            pooler_output=total / weights.sum(axis=1),
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )
