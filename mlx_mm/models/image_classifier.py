"""Images to scores of labels of the checkpoint's own: a vision tower with one more layer."""

from collections.abc import Callable, Mapping
from typing import ClassVar, Literal, TypeAlias

import mlx.core as mx
import mlx.nn as nn

from mlx_mm.backend.linear import linear
from mlx_mm.errors import ConfigError
from mlx_mm.layers.classification import class_scores, classifier_output
from mlx_mm.layers.outputs import ImageClassifierOutput, TowerOutput
from mlx_mm.models.config import FamilyConfig
from mlx_mm.models.contracts import Modality
from mlx_mm.models.one_tower import Input
from mlx_mm.models.weights import IMAGE_PARTS, Towers, WeightRules

# States of tokens (B, N, D) with the other inputs of the tower -> a vector (B, D) for each image
Mean: TypeAlias = Callable[[mx.array, Mapping[str, Input]], mx.array]


def no_vision_config() -> ConfigError:
    """The error for a classifier whose config.json has no vision tower."""
    return ConfigError("config.json names an image classifier but has no vision_config. Use the complete file.")


class ImageClassifier(nn.Module):
    """A vision tower with a linear layer over a mean of its tokens; a pooling head is loaded, not used."""

    kind: Literal["classifier"] = "classifier"
    modalities: tuple[Modality, ...] = ("image",)
    towers: ClassVar[Towers] = {"image": IMAGE_PARTS}

    def __init__(
        self,
        config: FamilyConfig,
        rules: WeightRules,
        vision_model: nn.Module,
        hidden_size: int,
        mean: Mean,
        labels: tuple[str, ...],
        problem_type: str | None,
    ):
        super().__init__()
        self.config = config
        self.sanitize, self.restore, self.quant_predicate, self.cast_predicate, self.padded_axes = rules
        self.labels = labels
        self.vision_model = vision_model
        self.classifier = nn.Linear(hidden_size, len(labels))
        self._mean, self._problem_type = mean, problem_type

    def __call__(
        self,
        pixel_values: mx.array,
        *,
        labels: mx.array | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        **inputs: Input,
    ) -> ImageClassifierOutput:
        """Images as the tower takes them -> logits (B, labels).

        labels: class ids (B,), or floats: (B,) for one output, (B, labels) for several labels at once.
        """
        extras = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        tower: TowerOutput = self.vision_model(pixel_values, **inputs, **extras)
        return classifier_output(self._logits(tower, inputs), labels, tower)

    def class_scores(self, pixel_values: mx.array, **inputs: Input) -> mx.array:
        """Images as the tower takes them -> probabilities (B, labels)."""
        tower: TowerOutput = self.vision_model(pixel_values, **inputs)
        return class_scores(self._logits(tower, inputs), self._problem_type)

    def _logits(self, tower: TowerOutput, inputs: Mapping[str, Input]) -> mx.array:
        # In float32: a sum of many tokens overflows float16, and scores that decide keep their digits.
        return linear(self.classifier, self._mean(tower.last_hidden_state.astype(mx.float32), inputs))

    def modules_for(self, _modality: Modality) -> tuple[nn.Module | None, ...]:
        """All of it."""
        return (self,)
