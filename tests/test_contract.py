"""What every checkpoint must do, whichever family runs it: each test runs over all of `RECIPES`.

What only one family does, and every golden number, is tested with that family in `models/`.
"""

from __future__ import annotations

import copy
import inspect
import itertools
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from comparing import close
from recipes import RECIPES, Recipe
from tiny import hashed

import mlx_mm
from mlx_mm import encode_audio, encode_image, encode_text, to_mlx
from mlx_mm.errors import MlxMmError, ModalityError
from mlx_mm.models import MODEL_TYPES, find_family

EQUAL = 1e-6  # of unit vectors: sizes of matrices change the order of float32 sums
ENCODERS = [name for name, recipe in RECIPES.items() if recipe.kind == "encoder"]
CLASSIFIERS = [name for name, recipe in RECIPES.items() if recipe.kind == "classifier"]
JOINT = [name for name in ENCODERS if len(RECIPES[name].modalities) > 1]
GENERATORS = [name for name, recipe in RECIPES.items() if recipe.kind == "generator"]


def image(height: int, width: int, seed: int) -> np.ndarray:
    return (np.abs(hashed((height, width, 3), seed)) * 255).astype(np.uint8)


def sound(seconds: float, seed: int) -> tuple[np.ndarray, int]:
    return 0.3 * hashed((int(seconds * 48000),), seed).astype(np.float32), 48000


# Of unlike lengths and sizes, so that most rows of a batch are padded; one sound is longer than a model hears at once.
SAMPLES: dict[str, list[Any]] = {
    "text": ["a cat", "dog", "a cat a dog", ""],
    "image": [image(40, 50, 1), image(30, 30, 2), image(64, 20, 3)],
    "audio": [sound(0.5, 4), sound(11, 5), sound(2, 6)],
}
ENCODE: dict[str, Callable[..., np.ndarray]] = {"text": encode_text, "image": encode_image, "audio": encode_audio}


class Checkpoint:
    """A tiny checkpoint on disk, loaded, and converted when a test asks for it."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe = recipe
        self.folder = folder
        self.source = recipe.write(folder / "source")
        self.model, self.processor = mlx_mm.load(self.source)

    @property
    def encoded(self) -> dict[str, list[Any]]:
        """Samples of what `encode_*` and `classify` take."""
        return {name: items for name, items in SAMPLES.items() if name in self.recipe.modalities}

    def converted(self, bits: int | None) -> Path:
        out = self.folder / f"{bits} bits"
        if not out.exists():
            # Not every width of a tiny model is divisible by more.
            mlx_mm.convert(self.source, out, bits=bits, group_size=32, **({} if bits else {"dtype": "float32"}))
        return out


@pytest.fixture(scope="module")
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return Checkpoint(RECIPES[request.param], tmp_path_factory.mktemp(request.param))


def over(names: list[str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("checkpoint", names, indirect=True)


def prepared(processor: Any, modality: str, items: Any) -> dict[str, np.ndarray]:
    """One modality by the processor's own method."""
    method = {"text": "text", "image": "images", "audio": "audio"}[modality]
    batch: dict[str, np.ndarray] = getattr(processor, method)(items)
    return batch


def chat(processor: Any) -> dict[str, np.ndarray]:
    message = {"role": "user", "content": "What?"}
    batch: dict[str, np.ndarray] = processor.chat([message], images=SAMPLES["image"][:2])
    return batch


def whole_batch(checkpoint: Checkpoint, processor: Any = None) -> dict[str, np.ndarray]:
    """Three of everything that the model takes; processor: another than the checkpoint's."""
    processor = processor or checkpoint.processor
    if checkpoint.recipe.kind == "generator":
        return chat(processor)
    parts = (prepared(processor, name, items[:3]) for name, items in checkpoint.encoded.items())
    return dict(itertools.chain.from_iterable(part.items() for part in parts))


def observe(model: Any, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every array of the model's output."""
    out = vars(model(**to_mlx(batch)))
    return {name: np.array(value) for name, value in out.items() if isinstance(value, mx.array)}


def vectors_of(model: Any, processor: Any, samples: dict[str, list[Any]]) -> dict[str, np.ndarray]:
    return {name: ENCODE[name](model, processor, items) for name, items in samples.items()}


# --- the registry -----------------------------------------------------------------------------------------------


def test_every_class_of_every_family_has_a_recipe() -> None:
    configs = [recipe.config() for recipe in RECIPES.values()]
    assert {config["model_type"] for config in configs} == set(MODEL_TYPES)
    covered = {config["architectures"][0] for config in configs}
    for family in {find_family(model_type).name: find_family(model_type) for model_type in MODEL_TYPES}.values():
        known = {name for name in family.architectures if name and not name.startswith("MetaCLIP2")}  # misspelt
        headless = {"Glm46VModel", "Glm4vModel", "Glm4vMoeModel"}  # neither encode nor answer
        assert known - headless <= covered


# --- loading ----------------------------------------------------------------------------------------------------


@over(list(RECIPES))
def test_it_is_what_its_files_say(checkpoint: Checkpoint) -> None:
    model, recipe = checkpoint.model, checkpoint.recipe
    assert model.kind == recipe.kind
    assert model.modalities == recipe.modalities
    assert checkpoint.processor.kind == ("chat" if recipe.kind == "generator" else "encoder")
    assert set(checkpoint.processor.modalities) >= set(recipe.modalities)
    assert recipe.kind != "encoder" or "{}" in model.prompt_template
    assert not model.training


@over(list(RECIPES))
def test_the_same_files_give_the_same_bits(checkpoint: Checkpoint, tmp_path: Path) -> None:
    batch = whole_batch(checkpoint)
    first = observe(checkpoint.model, batch)
    assert first
    assert all(np.isfinite(array).all() for array in first.values())
    checkpoint.recipe.write(tmp_path, shards=3)
    for model, _ in (mlx_mm.load(tmp_path), mlx_mm.load(str(checkpoint.source), lazy=True)):
        again = observe(model, batch)
        assert all(np.array_equal(first[name], again[name]) for name in first | again)


# --- the processor ----------------------------------------------------------------------------------------------


def takes(method: Callable[..., Any], batch: dict[str, np.ndarray]) -> Any:
    """What a model makes of a processor's arrays, which have the names of its arguments; others are refused."""
    assert all(isinstance(value, np.ndarray) for value in batch.values())
    inspect.signature(method).bind(**batch)
    with pytest.raises(TypeError):
        method(**to_mlx(batch), nonsense=mx.zeros(1))
    return method(**to_mlx(batch))


@over(ENCODERS + CLASSIFIERS)
def test_processor_keys_are_the_models_arguments(checkpoint: Checkpoint) -> None:
    model, processor = checkpoint.model, checkpoint.processor
    for modality, items in checkpoint.encoded.items():
        batch = prepared(processor, modality, items)
        takes(model.__call__, batch)
        if checkpoint.recipe.kind == "encoder":
            assert len(takes(getattr(model, f"get_{modality}_features"), batch)) == len(items)
    names = {"text": "text", "image": "images", "audio": "audio"}
    takes(model.__call__, processor(**{names[modality]: items for modality, items in checkpoint.encoded.items()}))


@over(GENERATORS)
def test_chat_keys_are_the_models_arguments(checkpoint: Checkpoint) -> None:
    takes(checkpoint.model.__call__, chat(checkpoint.processor))


@over(list(RECIPES))
def test_processor_can_be_pickled_and_copied(checkpoint: Checkpoint) -> None:
    right, own = whole_batch(checkpoint), checkpoint.processor
    for processor in (pickle.loads(pickle.dumps(own)), copy.deepcopy(own)):
        got = whole_batch(checkpoint, processor)
        assert got.keys() == right.keys()
        assert all(np.array_equal(got[name], right[name]) for name in right)


# --- vectors ----------------------------------------------------------------------------------------------------


@over(ENCODERS)
def test_shapes_dtypes_and_lengths(checkpoint: Checkpoint) -> None:
    for modality, items in checkpoint.encoded.items():
        encode = ENCODE[modality]
        several = encode(checkpoint.model, checkpoint.processor, items)
        single = encode(checkpoint.model, checkpoint.processor, items[0])
        assert several.dtype == single.dtype == np.float32
        assert several.shape == (len(items), *single.shape)
        assert np.array_equal(encode(checkpoint.model, checkpoint.processor, items[:1]), single[None])
        assert close(np.linalg.norm(several, axis=-1), 1.0, EQUAL)


@over(ENCODERS)
def test_alone_padded_and_in_any_batch(checkpoint: Checkpoint) -> None:
    """Of unlike items that stand together, each has the vector it has alone, at its own place."""
    model, processor = checkpoint.model, checkpoint.processor
    for modality, items in checkpoint.encoded.items():
        encode = ENCODE[modality]
        singles = np.stack([encode(model, processor, item) for item in items])
        apart = np.abs(singles[:, None] - singles[None]).max(-1) + np.eye(len(items))
        assert apart.min() > 100 * EQUAL  # otherwise a wrong order could not be seen
        for batch_size in (1, 2, len(items)):
            together = encode(model, processor, items[::-1], batch_size=batch_size)[::-1]
            assert close(together, singles, EQUAL)


@over(ENCODERS)
def test_vectors_are_the_models_features_at_unit_length(checkpoint: Checkpoint) -> None:
    model, processor = checkpoint.model, checkpoint.processor
    for modality, items in checkpoint.encoded.items():
        items = items[:1] if modality == "audio" else items  # of a longer sound the vector is an average
        raw = np.array(getattr(model, f"get_{modality}_features")(**to_mlx(prepared(processor, modality, items))))
        got = ENCODE[modality](model, processor, items, normalize=False)
        assert got.shape == raw.shape
        assert close(got, raw, 1e-5)
        unit = raw / np.linalg.norm(raw, axis=-1, keepdims=True)
        assert close(ENCODE[modality](model, processor, items), unit, EQUAL)


@over(CLASSIFIERS)
def test_classifier_scores_its_own_labels(checkpoint: Checkpoint) -> None:
    rows = mlx_mm.classify(checkpoint.model, checkpoint.processor, SAMPLES["image"])
    assert len(rows) == len(SAMPLES["image"])
    for item, row in zip(SAMPLES["image"], rows, strict=True):
        assert sorted(label for label, _ in row) == sorted(checkpoint.model.labels) == ["cat", "dog", "owl"]
        assert [score for _, score in row] == sorted((score for _, score in row), reverse=True)
        assert sum(score for _, score in row) == pytest.approx(1, abs=EQUAL)
        alone = mlx_mm.classify(checkpoint.model, checkpoint.processor, item)
        assert dict(alone) == pytest.approx(dict(row), abs=EQUAL)


# --- the model itself -------------------------------------------------------------------------------------------


def joint_batch(checkpoint: Checkpoint) -> tuple[dict[str, dict[str, mx.array]], dict[str, mx.array]]:
    """What a joint model takes of each modality, and all of it."""
    apart = {
        name: to_mlx(prepared(checkpoint.processor, name, items[:3])) for name, items in checkpoint.encoded.items()
    }
    return apart, {key: array for part in apart.values() for key, array in part.items()}


@over(list(RECIPES))
def test_the_fields_are_those_of_transformers(checkpoint: Checkpoint) -> None:
    batch = to_mlx(whole_batch(checkpoint))
    full = vars(checkpoint.model(**batch, output_hidden_states=True, output_attentions=True))
    assert set(full) == set(checkpoint.recipe.fields)
    assert {name for name, value in full.items() if value is None} <= {"loss"}
    plain = vars(checkpoint.model(**batch))
    for name in {"hidden_states", "attentions"} & set(full):
        assert plain[name] is None
        assert isinstance(full[name], tuple)
    for name in (name for name, value in plain.items() if isinstance(value, mx.array)):
        assert close(plain[name], full[name], 1e-4)


@over(JOINT)
def test_rows_of_a_batch_do_not_touch(checkpoint: Checkpoint) -> None:
    _, batch = joint_batch(checkpoint)
    whole = checkpoint.model(**batch)
    other = next(name for name in checkpoint.recipe.modalities if name != "text")
    for i in range(3):
        single = checkpoint.model(**{name: array[i : i + 1] for name, array in batch.items()})
        for name in ("text_embeds", f"{other}_embeds"):
            assert close(getattr(single, name)[0], getattr(whole, name)[i], EQUAL)
        for name in ("logits_per_text", f"logits_per_{other}"):
            assert close(getattr(single, name)[0, 0], getattr(whole, name)[i, i], 2e-5)


@over(JOINT)
def test_one_modality_leaves_the_other_fields_empty(checkpoint: Checkpoint) -> None:
    apart, batch = joint_batch(checkpoint)
    both = vars(checkpoint.model(**batch))
    assert {name for name, value in both.items() if value is None} == {"loss"}
    for modality, part in apart.items():
        alone = vars(checkpoint.model(**part))
        own = f"{'vision' if modality == 'image' else modality}_model_output"
        assert {name for name, value in alone.items() if value is not None} == {f"{modality}_embeds", own}
        assert close(alone[f"{modality}_embeds"], both[f"{modality}_embeds"], 0.0)


@over(JOINT)
def test_states_and_attentions_only_when_asked(checkpoint: Checkpoint) -> None:
    _, batch = joint_batch(checkpoint)
    plain = vars(checkpoint.model(**batch))
    full = vars(checkpoint.model(**batch, output_hidden_states=True, output_attentions=True))
    for name in (name for name in plain if name.endswith("_model_output")):
        before, after = plain[name], full[name]
        assert before.hidden_states is None
        assert before.attentions is None
        assert len(after.hidden_states) == 3
        assert {len(state) for state in after.hidden_states} == {3}
        for shares in after.attentions:
            assert close(np.array(shares).sum(-1), 1.0, 1e-5)
        assert close(before.last_hidden_state, after.last_hidden_state, 1e-5)
    for name in (name for name in plain if name.endswith("_embeds")):
        assert close(plain[name], full[name], 2e-6)


@over(JOINT)
def test_loss_needs_pairs(checkpoint: Checkpoint) -> None:
    apart, batch = joint_batch(checkpoint)
    assert checkpoint.model(**batch, return_loss=True).loss.shape == ()
    fewer = batch | {name: array[:2] for name, array in apart["text"].items()}
    assert checkpoint.model(**fewer).logits_per_text.shape == (2, 3)
    for wrong in (fewer, *apart.values()):
        with pytest.raises(MlxMmError):
            checkpoint.model(**wrong, return_loss=True)


# --- what it does not take --------------------------------------------------------------------------------------


def refusal(call: Callable[[], Any]) -> str:
    """The message: what was found, what was expected, what to do."""
    with pytest.raises(ModalityError) as caught:
        call()
    text = str(caught.value)
    assert text.endswith(".")
    assert len(text.split()) >= 8, text
    assert "\n" not in text
    return text


@over(ENCODERS)
def test_another_modality_is_refused(checkpoint: Checkpoint) -> None:
    model, processor = checkpoint.model, checkpoint.processor
    takes = " and ".join(checkpoint.recipe.modalities)
    for modality, items in SAMPLES.items():
        if modality not in checkpoint.recipe.modalities:
            text = refusal(lambda m=modality, i=items: ENCODE[m](model, processor, i))
            assert (
                text == f"This checkpoint has no {modality} encoder; it takes {takes}. Use one that takes {modality}."
            )
    for modality in {"text", "image", "audio"} - set(checkpoint.recipe.modalities):
        if features := getattr(model, f"get_{modality}_features", None):
            argument = {"text": "input_ids", "image": "pixel_values", "audio": "input_features"}[modality]
            refusal(lambda f=features, a=argument: f(**{a: mx.zeros((1, 16), mx.int32)}))
    if len(checkpoint.recipe.modalities) == 1:
        items = SAMPLES["audio" if "audio" in checkpoint.recipe.modalities else "image"]
        refusal(lambda: mlx_mm.classify(model, processor, items, ["cat", "dog"], template="{}"))
    text = refusal(lambda: mlx_mm.generate(model, processor, "What?"))
    assert all(f"encode_{modality}" in text for modality in checkpoint.recipe.modalities)


@over(CLASSIFIERS)
def test_classifier_gives_no_vectors(checkpoint: Checkpoint) -> None:
    for modality, items in SAMPLES.items():
        refusal(lambda m=modality, i=items: ENCODE[m](checkpoint.model, checkpoint.processor, i))
    refusal(lambda: mlx_mm.classify(checkpoint.model, checkpoint.processor, SAMPLES["image"], ["cat"]))
    refusal(lambda: mlx_mm.generate(checkpoint.model, checkpoint.processor, "What?"))


@over(GENERATORS)
def test_generator_gives_neither_vectors_nor_scores(checkpoint: Checkpoint) -> None:
    for modality, items in SAMPLES.items():
        text = refusal(lambda m=modality, i=items: ENCODE[m](checkpoint.model, checkpoint.processor, i))
        assert "Use generate or chat" in text
    for labels in (["cat", "dog"], None):
        answer = checkpoint.model, checkpoint.processor, SAMPLES["image"][0], labels
        assert "Use generate or chat" in refusal(lambda given=answer: mlx_mm.classify(*given))


@over(list(RECIPES))
def test_nothing_to_do_is_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(MlxMmError):
        checkpoint.processor()
    with pytest.raises((MlxMmError, TypeError)):  # a single tower's input has no default
        checkpoint.model()


# --- converting -------------------------------------------------------------------------------------------------


@over(list(RECIPES))
def test_converted_without_rounding_it_is_the_same(checkpoint: Checkpoint) -> None:
    out, batch = checkpoint.converted(None), whole_batch(checkpoint)
    _, metadata = mx.load(str(out / "model.safetensors"), return_metadata=True)
    assert metadata["format"] == "mlx"
    model, processor = mlx_mm.load(out)
    before, after = observe(checkpoint.model, batch), observe(model, batch)
    assert all(np.array_equal(before[name], after[name]) for name in before | after)
    assert processor.modalities == checkpoint.processor.modalities


@pytest.mark.parametrize("bits", [4, 8])
@over(ENCODERS)
def test_rounded_encoder(checkpoint: Checkpoint, bits: int) -> None:
    model, processor = mlx_mm.load(checkpoint.converted(bits))
    right = vectors_of(checkpoint.model, checkpoint.processor, checkpoint.encoded)
    for modality, vectors in vectors_of(model, processor, checkpoint.encoded).items():
        assert np.isfinite(vectors).all()
        cosine = (vectors * right[modality]).sum(-1).min()
        assert checkpoint.recipe.lowest_cosine[bits == 8] < cosine < 1 - 1e-7, (modality, cosine)


@pytest.mark.usefixtures("exact_inputs")
@pytest.mark.parametrize("bits", [4, 8])
@over(CLASSIFIERS + GENERATORS)
def test_rounded_logits(checkpoint: Checkpoint, bits: int) -> None:
    batch, model = whole_batch(checkpoint), mlx_mm.load(checkpoint.converted(bits))[0]
    right, got = (observe(m, batch)["logits"].astype(np.float64) for m in (checkpoint.model, model))
    assert np.isfinite(got).all()
    cosine = ((got * right).sum(-1) / np.linalg.norm(got, axis=-1) / np.linalg.norm(right, axis=-1)).min()
    assert checkpoint.recipe.lowest_cosine[bits == 8] < cosine < 1 - 1e-7


# --- answers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [None, 4])
@over(GENERATORS)
def test_answers_are_the_same_twice_and_streamed(checkpoint: Checkpoint, bits: int | None) -> None:
    model, processor = mlx_mm.load(checkpoint.converted(bits)) if bits else (checkpoint.model, checkpoint.processor)
    for images in ([], SAMPLES["image"][:2]):
        options: dict[str, Any] = {"images": images, "max_tokens": 6}
        one, two = (mlx_mm.generate(model, processor, "What is it?", **options) for _ in range(2))
        assert one.raw
        assert (one.raw, one.text, one.finish_reason) == (two.raw, two.text, two.finish_reason)
        pieces = list(mlx_mm.stream_generate(model, processor, "What is it?", **options))
        assert "".join(piece.raw for piece in pieces) == one.raw
        assert "".join(piece.text for piece in pieces) == one.text
        assert pieces[-1].finish_reason == one.finish_reason
