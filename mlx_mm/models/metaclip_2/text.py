"""The text tower: causal, and pooled where the text ends."""

import mlx.core as mx
import mlx.nn as nn

from mlx_mm.backend.border import read_rows
from mlx_mm.backend.norms import norm
from mlx_mm.backend.tables import made_once
from mlx_mm.errors import InputError
from mlx_mm.layers.attention import Mask, key_mask
from mlx_mm.layers.embeddings import TextEmbeddings
from mlx_mm.layers.outputs import TowerOutput
from mlx_mm.layers.transformer import Encoder
from mlx_mm.models.metaclip_2.config import TextConfig


def check_ends(input_ids: mx.array, eos_token_id: int | None) -> None:
    """Raise InputError for a text without the end token, where there is one: its vector is read there."""
    if eos_token_id is None:
        return
    for number, ids in enumerate(read_rows(input_ids)):
        if eos_token_id not in ids:
            raise InputError(
                f"Text number {number} has no end token ({eos_token_id}) among its {len(ids)} input_ids; its "
                "vector is read there. Keep the end token last when you cut a text, as processor.text does."
            )


def check_padding(attention_mask: mx.array | None) -> None:
    """Raise InputError for padding on the left, which would shift the positions."""
    if attention_mask is not None and not all(mask[0] for mask in read_rows(attention_mask)):
        raise InputError(
            "attention_mask hides the first token of a text; expected padding on the right, since positions are "
            "counted from the left. Pad the texts on the right."
        )


def end_positions(input_ids: mx.array, eos_token_id: int | None) -> mx.array:
    """(B, L) -> (B,): where each text has its first `eos_token_id`; None: its first highest id, CLIP's old rule."""
    return mx.argmax(input_ids if eos_token_id is None else input_ids == eos_token_id, axis=-1)


@made_once(128)
def earlier_tokens(length: int) -> mx.array:
    """(L, L): each token sees itself and those before it."""
    return mx.tri(length, dtype=mx.bool_)


def causal_mask(attention_mask: mx.array | None, length: int) -> Mask:
    """Each token sees those before it, without the padding of a Hugging Face mask (B, L), 1 = real."""
    keys = key_mask(attention_mask)
    return "causal" if keys is None else keys & earlier_tokens(length)


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
        """input_ids (B, L), padded on the right to any length: nothing after its end changes a text's vector.

        Raises InputError for texts without their end, or padded on the left.
        """
        check_ends(input_ids, self._eos_token_id)
        check_padding(attention_mask)
        encoded = self.encoder(
            self.embeddings(input_ids, position_ids),
            causal_mask(attention_mask, input_ids.shape[1]),
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        last_hidden_state = norm(self.final_layer_norm, encoded.last_hidden_state)
        ends = end_positions(input_ids, self._eos_token_id)
        return TowerOutput(
            last_hidden_state=last_hidden_state,
            pooler_output=last_hidden_state[mx.arange(len(ends)), ends],
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )
