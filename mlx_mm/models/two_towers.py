"""Texts and images in one space: two towers, projections where a family has them, and what compares the vectors.

The joint model knows what towers give, a scale and a bias, and nothing of how the towers work: a family hands in its
own.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, TypeAlias

import mlx.core as mx
import mlx.nn as nn

from mlx_mm.layers.losses import contrastive_loss, pairwise_sigmoid_loss
from mlx_mm.layers.outputs import ImageTextOutput, TowerOutput, pooled
from mlx_mm.layers.similarity import compare
from mlx_mm.models.config import FamilyConfig
from mlx_mm.models.contracts import Modality
from mlx_mm.models.one_tower import IMAGE_PROMPT, Input, TextModel, VisionModel, project
from mlx_mm.models.weights import IMAGE_PARTS, TEXT_PARTS, Towers, WeightRules


@dataclass(frozen=True)
class Comparison:
    """How a family was trained to compare texts and images.

    loss: logits (N, N) of pairs -> (). scores: logits (N, M) -> probabilities. scale_shape: of the scale in the files,
    and of the bias, where there is one.
    """

    loss: Callable[[mx.array], mx.array]
    scores: Callable[[mx.array], mx.array]
    scale_shape: tuple[int, ...] = ()
    has_bias: bool = False


def each_alone(logits: mx.array) -> mx.array:
    """Probability (N, M) that an item is label j, whatever else it is. A function of ours, which can be copied."""
    return mx.sigmoid(logits)


def one_of_them(logits: mx.array) -> mx.array:
    """Probability (N, M) that an item is label j and no other."""
    return mx.softmax(logits, axis=-1, precise=True)


TEXT_INPUTS = ("attention_mask", "position_ids")
SIGMOID = Comparison(pairwise_sigmoid_loss, each_alone, scale_shape=(1,), has_bias=True)
SOFTMAX = Comparison(contrastive_loss, one_of_them)


class TwoTowers(nn.Module):
    """Both towers with their projections, if any, and a scale."""

    kind: Literal["encoder"] = "encoder"
    modalities: tuple[Modality, ...] = ("text", "image")
    towers: ClassVar[Towers] = {"text": TEXT_PARTS, "image": IMAGE_PARTS}
    prompt_template = IMAGE_PROMPT

    def __init__(
        self,
        config: FamilyConfig,
        rules: WeightRules,
        comparison: Comparison,
        text_model: nn.Module,
        vision_model: nn.Module,
        text_projection: nn.Module | None = None,
        visual_projection: nn.Module | None = None,
        order: tuple[str, ...] = TEXT_INPUTS,
    ):
        super().__init__()
        self.config = config
        self.sanitize, self.restore, self.quant_predicate, self.cast_predicate, self.padded_axes = rules
        self.text_model, self.text_projection = text_model, text_projection
        self.vision_model, self.visual_projection = vision_model, visual_projection
        self._comparison, self._order = comparison, order
        self.logit_scale = mx.zeros(comparison.scale_shape)
        if comparison.has_bias:
            self.logit_bias = mx.zeros(comparison.scale_shape)

    def __call__(
        self,
        input_ids: mx.array | None = None,
        pixel_values: mx.array | None = None,
        *others: Input,
        return_loss: bool = False,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        **inputs: Input,
    ) -> ImageTextOutput:
        """Texts (B, L), images with what else the vision tower takes, or both -> ImageTextOutput.

        others, inputs: attention_mask and position_ids of texts and what belongs to images, by name or in the order of
        transformers' class, where those of images come first.
        Where there are projections the towers' pooler_output are projected, as in transformers 5. return_loss: the
        n-th text belongs to the n-th image. Raises InputError without any input, or without pairs for a loss, and
        TypeError for what the vision tower does not take, or takes with pixel_values only, or is given twice.
        """
        given = dict(zip(self._order, others, strict=False))
        if len(others) > len(self._order) or given.keys() & inputs:
            raise TypeError(f"expected each input once, and after pixel_values in the order {', '.join(self._order)}")
        given |= inputs
        of_texts = [given.pop(name, None) for name in TEXT_INPUTS]
        extras = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        text = vision = None
        if input_ids is not None:
            text = self._read_text(input_ids, *of_texts, **extras)
        if pixel_values is not None:
            vision = self._read_image(pixel_values, **given, **extras)
        elif idle := [name for name, value in given.items() if value is not None and value is not False]:
            raise TypeError(f"{min(idle)} was given without pixel_values, where it cannot act. Leave it out.")
        return compare(text, vision, self.logits, self._comparison.loss if return_loss else None)

    def get_text_features(
        self, input_ids: mx.array, attention_mask: mx.array | None = None, position_ids: mx.array | None = None
    ) -> mx.array:
        """(B, L) -> (B, D), not normalised."""
        return pooled(self._read_text(input_ids, attention_mask, position_ids))

    def get_image_features(self, pixel_values: mx.array, *others: Input, **inputs: Input) -> mx.array:
        """Images with what else the vision tower takes, in its order or by name -> (B, D), not normalised."""
        return pooled(self._read_image(pixel_values, *others, **inputs))

    def logits(self, a: mx.array, b: mx.array) -> mx.array:
        """Unit vectors (N, D) and (M, D) -> how well they fit, (N, M)."""
        scaled = a @ b.T * mx.exp(self.logit_scale)
        return scaled + self.logit_bias if self._comparison.has_bias else scaled

    def score(self, items: mx.array, labels: mx.array) -> mx.array:
        """Probability that image i shows label j, from unit vectors (N, D) and (M, D) -> (N, M)."""
        return self._comparison.scores(self.logits(items, labels))

    def modules_for(self, modality: Modality) -> tuple[nn.Module | None, ...]:
        """The modules that the features of a modality are computed with."""
        if modality == "text":
            return self.text_model, self.text_projection
        return self.vision_model, self.visual_projection

    def _read_text(
        self, input_ids: mx.array, attention_mask: Input = None, position_ids: Input = None, **extras: bool
    ) -> TowerOutput:
        # Towers that count positions from the left alone have no position_ids.
        given = {} if position_ids is None else {"position_ids": position_ids}
        return _project(self.text_model(input_ids, attention_mask, **given, **extras), self.text_projection)

    def _read_image(self, pixel_values: mx.array, *others: Input, **inputs: Input) -> TowerOutput:
        return _project(self.vision_model(pixel_values, *others, **inputs), self.visual_projection)


def _project(output: TowerOutput, projection: nn.Module | None) -> TowerOutput:
    """The same output with its pooled vector projected."""
    return output if projection is None else replace(output, pooler_output=project(projection, pooled(output)))


ImageTextModel: TypeAlias = TwoTowers | TextModel | VisionModel


def towers_of(
    config: FamilyConfig,
    rules: WeightRules,
    comparison: Comparison,
    *,
    text: nn.Module | None,
    vision: nn.Module | None,
    text_projection: nn.Module | None = None,
    visual_projection: nn.Module | None = None,
    order: tuple[str, ...] = TEXT_INPUTS,
) -> ImageTextModel:
    """The model of both towers, or of the one that a checkpoint has. order: of what a joint model takes by place, after
    texts and pixels."""
    if text is not None and vision is not None:
        return TwoTowers(config, rules, comparison, text, vision, text_projection, visual_projection, order)
    if text is not None:
        return TextModel(config, rules, text, text_projection)
    assert vision is not None  # `tower_sections` gives one at least
    return VisionModel(config, rules, vision, visual_projection)
