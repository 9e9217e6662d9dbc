"""What a family promises to the rest of the package, as types that mypy holds it to.

Models and processors come in kinds, told apart by `kind`: an encoder gives vectors, a classifier scores of its own
labels, a generator answers in words. `load` gives any of them; the verbs take any and refuse the wrong kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, runtime_checkable

from mlx_mm.models.config import FamilyConfig
from mlx_mm.processing.batch import Batch

if TYPE_CHECKING:  # a processor must not import MLX, and this file is beside it
    import mlx.core as mx
    import mlx.nn as nn

    from mlx_mm.backend.ranks import Group
    from mlx_mm.checkpoint.parts import Part
    from mlx_mm.checkpoint.rows import Rows
    from mlx_mm.generation.defaults import GenerationDefaults
    from mlx_mm.generation.request import Request
    from mlx_mm.generation.response import ResponseParser
    from mlx_mm.processing.arguments import Texts
    from mlx_mm.processing.audio import AudioSource
    from mlx_mm.processing.image import ImageSource
    from mlx_mm.processing.text import OnCut
    from mlx_mm.processing.video import VideoSource

Modality: TypeAlias = Literal["text", "image", "audio", "video"]
Features: TypeAlias = "Callable[..., mx.array]"  # a processor's arrays by name -> (B, D)


class Layers(Protocol):
    """The part of mlx.nn.Module that loading and converting need."""

    def parameters(self) -> dict[str, object]: ...
    def named_modules(self) -> list[tuple[str, nn.Module]]: ...
    def leaf_modules(self) -> dict[str, object]: ...
    def update_modules(self, modules: dict[str, object]) -> nn.Module: ...
    def load_weights(self, file_or_weights: str | list[tuple[str, mx.array]], strict: bool = True) -> nn.Module: ...
    def eval(self) -> nn.Module: ...


class Checkpointed(Layers, Protocol):
    """What models of every kind have.

    modalities: what this checkpoint takes. sanitize: Hugging Face's tensors -> those of the model, `Rows` where one is
    made of many. restore: the other way, of float weights, `Rows` where one is large or a stack. modules_for: what the
    features of a modality are computed with, so that a lazily loaded model reads no more. quant_predicate: whether the
    layer at a path may be quantised. cast_predicate: whether the weight at
    a path may be computed with in float16; elsewhere it is computed with in float32. towers: how the paths of the
    layers of a modality start, each with its dot, such as "text_projection.". padded_axes: how a parameter's path ends
    -> the axis that grows with an MLP's width (see `FamilyConfig.widened`), or that axis and the number of equal parts
    that lie below each other on it. The first ending that fits decides.
    """

    @property
    def modalities(self) -> tuple[Modality, ...]: ...
    @property
    def towers(self) -> Mapping[str, tuple[str, ...]]: ...
    @property
    def padded_axes(self) -> tuple[tuple[str, int | tuple[int, int]], ...]: ...
    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array | Rows]: ...
    def restore(self, weights: dict[str, mx.array | Rows]) -> dict[str, mx.array | Rows]: ...
    def modules_for(self, modality: Modality) -> tuple[nn.Module | None, ...]: ...
    def quant_predicate(self, path: str, module: nn.Module) -> bool: ...
    def cast_predicate(self, path: str) -> bool: ...


class Encoder(Checkpointed, Protocol):
    """Gives vectors. It has `get_text_features`, … for each of its modalities, see `TextEncoder`.

    prompt_template: the sentence with {} in which a label is compared with images or audio. score: unit vectors of
    items (N, D) and of labels (M, D) -> (N, M), as the model was trained to compare them.
    """

    kind: Literal["encoder"]
    prompt_template: str

    def score(self, items: mx.array, labels: mx.array) -> mx.array: ...


@runtime_checkable
class TextEncoder(Protocol):
    """An encoder with the modality "text". Features are normalised only where transformers does so."""

    @property
    def get_text_features(self) -> Features: ...


@runtime_checkable
class ImageEncoder(Protocol):
    """An encoder with the modality "image"."""

    @property
    def get_image_features(self) -> Features: ...


@runtime_checkable
class AudioEncoder(Protocol):
    """An encoder with the modality "audio"."""

    @property
    def get_audio_features(self) -> Features: ...


class Classifier(Checkpointed, Protocol):
    """Scores images against labels of its own.

    class_scores: a processor's arrays -> probabilities of the labels (B, labels).
    """

    kind: Literal["classifier"]
    labels: tuple[str, ...]

    @property
    def class_scores(self) -> Features: ...


class Generator(Checkpointed, Protocol):
    """Answers in words. has_head: whether this checkpoint can. request: a processor's batch on its way through this
    model. group: of the ranks that each have a part of it; None for a whole model.

    token_logits: a processor's arrays -> logits after each token (B, L, V), with logits_to_keep after those at these
    places of the longest prompt.
    """

    kind: Literal["generator"]
    group: Group | None

    @property
    def has_head(self) -> bool: ...
    @property
    def token_logits(self) -> Features: ...
    def request(self, batch: Batch) -> Request: ...


class Share(Protocol):
    """What one of several ranks has of a model.

    config: of a model with the sizes that it has. part: name and shape of a tensor in the files -> what it takes.
    divide: lets a model of these sizes compute with the others. described: what is divided, in words. token_numbers:
    that are kept of a token, its keys and values.
    """

    @property
    def config(self) -> FamilyConfig: ...
    def part(self, name: str, shape: tuple[int, ...]) -> Part | None: ...
    def divide(self, model: Layers, group: Group) -> None: ...
    @property
    def described(self) -> dict[str, str]: ...
    @property
    def token_numbers(self) -> int: ...


Model: TypeAlias = Encoder | Classifier | Generator
Kind: TypeAlias = Literal["encoder", "classifier", "generator"]


class Checked(Protocol):
    """What decides whether a verb can use a checkpoint: a model, or one whose weights are not read yet."""

    @property
    def kind(self) -> Kind: ...
    @property
    def modalities(self) -> tuple[Modality, ...]: ...


class EncoderProcessor(Protocol):
    """Prepares what an encoder or a classifier takes. It has `text`, `images`, `audio` for each of its modalities.

    settings: those of the checkpoint that touch pixels or samples, a dataclass.
    """

    kind: Literal["encoder"]

    @property
    def modalities(self) -> tuple[Modality, ...]: ...
    @property
    def settings(self) -> object: ...
    def collate(self, items: Sequence[Batch]) -> Batch: ...


@runtime_checkable
class TextProcessor(Protocol):
    """A processor with the modality "text".

    on_cut: called with the number of tokens of each text that is cut; truncation=False refuses such texts.
    """

    def text(
        self,
        texts: Texts,
        *,
        task: str | None = None,
        max_length: int | None = None,
        truncation: bool = True,
        on_cut: OnCut | None = None,
    ) -> Batch: ...


@runtime_checkable
class ImageProcessor(Protocol):
    """A processor with the modality "image". check_images: raises what is wrong with the options whatever is given.

    fast_decode: pictures may differ in their last bits from what transformers makes of them.
    """

    def images(
        self,
        images: ImageSource | Iterable[ImageSource],
        *,
        fast_decode: bool = False,
        max_num_patches: int | None = None,
    ) -> Batch: ...
    def check_images(self, *, fast_decode: bool = False, max_num_patches: int | None = None) -> None: ...


@runtime_checkable
class AudioProcessor(Protocol):
    """A processor with the modality "audio". windows: batches of one, each with its weight in a mean, of window_seconds
    each. check_audio: as `check_images` of an ImageProcessor."""

    @property
    def window_seconds(self) -> float: ...

    def audio(
        self, audio: AudioSource | Iterable[AudioSource], *, seed: int = 0, truncation: str | None = None
    ) -> Batch: ...
    def check_audio(self, *, seed: int = 0, truncation: str | None = None) -> None: ...
    def windows(self, audio: AudioSource) -> Iterator[tuple[Batch, float]]: ...


class ChatProcessor(Protocol):
    """Prepares what a generator takes, and reads what it says.

    defaults: how tokens are chosen and answers end where nobody says. response: a parser for one answer.
    without_markers: what the model said, as it may stand in a message. count_tokens: what each image and video costs.
    image_sizes: (height, width) of the images of a chat. collate: one batch of several, padded on the left.
    """

    kind: Literal["chat"]

    @property
    def modalities(self) -> tuple[Modality, ...]: ...
    @property
    def defaults(self) -> GenerationDefaults: ...
    def chat(
        self,
        messages: Sequence[Mapping[str, object]],
        *,
        images: ImageSource | Sequence[ImageSource] = (),
        videos: VideoSource | Sequence[VideoSource] = (),
        tools: Sequence[Mapping[str, object]] | None = None,
        enable_thinking: bool | None = None,
        fps: float | None = None,
        max_pixels: int | None = None,
    ) -> Batch: ...
    def response(
        self, prompt_ids: Sequence[int], *, tools: Sequence[Mapping[str, object]] | None = None
    ) -> ResponseParser: ...
    def without_markers(self, text: str) -> str: ...
    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str: ...
    def image_sizes(
        self, messages: Sequence[Mapping[str, object]], *, images: ImageSource | Sequence[ImageSource] = ()
    ) -> list[tuple[int, int]]: ...
    def count_tokens(
        self,
        *,
        images: ImageSource | Sequence[ImageSource] = (),
        videos: VideoSource | Sequence[VideoSource] = (),
    ) -> dict[str, list[int]]: ...
    def collate(self, items: Sequence[Batch]) -> Batch: ...


Processor: TypeAlias = EncoderProcessor | ChatProcessor
