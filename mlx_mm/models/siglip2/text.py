"""SigLIP's text tower: bidirectional, pooled at the last position whatever token stands there."""

import mlx.core as mx
import mlx.nn as nn

from mlx_mm.backend.linear import linear
from mlx_mm.backend.norms import norm
from mlx_mm.layers.attention import key_mask
from mlx_mm.layers.embeddings import TextEmbeddings
from mlx_mm.layers.outputs import TowerOutput
from mlx_mm.layers.transformer import Encoder
from mlx_mm.models.siglip2.config import TextConfig


class TextTower(nn.Module):
    """`SiglipTextModel` and `Siglip2TextModel`."""

    def __init__(self, config: TextConfig):
        super().__init__()
        self.embeddings = TextEmbeddings(config)
        self.encoder = Encoder(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.head = nn.Linear(config.hidden_size, config.projection_size or config.hidden_size)

    def __call__(
        self,
        input_ids: mx.array,
        attention_mask: mx.array | None = None,
        position_ids: mx.array | None = None,
        *,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> TowerOutput:
        """input_ids (B, L) padded to the trained length; attention_mask (B, L) is normally not given."""
        encoded = self.encoder(
            self.embeddings(input_ids, position_ids),
            key_mask(attention_mask),
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        last_hidden_state = norm(self.final_layer_norm, encoded.last_hidden_state)
        return TowerOutput(
            last_hidden_state=last_hidden_state,
            pooler_output=linear(self.head, last_hidden_state[:, -1]),
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )
