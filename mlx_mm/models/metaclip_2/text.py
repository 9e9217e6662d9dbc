"""The text tower: causal, and pooled where the text ends."""

import mlx.core as mx
import mlx.nn as nn

from mlx_mm.errors import InputError
from mlx_mm.layers.attention import Mask, key_mask
from mlx_mm.layers.embeddings import TextEmbeddings
from mlx_mm.layers.outputs import TowerOutput
from mlx_mm.layers.transformer import Encoder
from mlx_mm.models.metaclip_2.config import TextConfig


def end_positions(input_ids: mx.array, eos_token_id: int | None) -> mx.array:
    """(B, L) -> (B,): where each text has its first `eos_token_id`; None: its first highest id, CLIP's old rule.

    Raises InputError for a text without the token.
    """
    if eos_token_id is None:
        return mx.argmax(input_ids, axis=-1)
    ends = input_ids == eos_token_id
    found = ends.any(axis=-1)
    if not found.all().item():
        row = mx.argmin(found).item()
        raise InputError(
            f"Text number {row} has no end token ({eos_token_id}) among its {input_ids.shape[1]} input_ids; its "
            "vector is read there. Keep the end token last when you cut a text, as processor.text does."
        )
    return mx.argmax(ends, axis=-1)


def causal_mask(attention_mask: mx.array | None, length: int) -> Mask:
    """Each token sees those before it, without the padding of a Hugging Face mask (B, L), 1 = real.

    Raises InputError for padding on the left, which would shift the positions.
    """
    keys = key_mask(attention_mask)
    if keys is None:
        return "causal"
    if not keys[..., 0].all().item():
        raise InputError(
            "attention_mask hides the first token of a text; expected padding on the right, since positions are "
            "counted from the left. Pad the texts on the right."
        )
    return keys & mx.tri(length, dtype=mx.bool_)


class TextTower(nn.Module):
    """`MetaClip2TextModel` and `CLIPTextModel`."""

    def __init__(self, config: TextConfig):
        super().__init__()
        self._eos_token_id = config.eos_token_id
        self.embeddings = TextEmbeddings(config)
        self.encoder = Encoder(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def __call__(
        self,
        input_ids: mx.array,
        attention_mask: mx.array | None = None,
        position_ids: mx.array | None = None,
        *,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> TowerOutput:
        """input_ids (B, L), padded on the right to any length: nothing after its end changes a text's vector."""
        encoded = self.encoder(
            self.embeddings(input_ids, position_ids),
            causal_mask(attention_mask, input_ids.shape[1]),
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        last_hidden_state = self.final_layer_norm(encoded.last_hidden_state)
        ends = end_positions(input_ids, self._eos_token_id)
        return TowerOutput(
            last_hidden_state=last_hidden_state,
            pooler_output=last_hidden_state[mx.arange(len(ends)), ends],
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )
