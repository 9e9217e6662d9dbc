"""Texts and sounds to the arrays of CLAP.

A sound becomes a log-mel spectrogram of 10 seconds. What happens to longer ones is `truncation`: "rand_trunc" takes
one random stretch; "fusion", for checkpoints that fuse four spectrograms, the whole squeezed and three random
stretches; `windows` all of it, one stretch after the other. The filters belong to the checkpoint's own truncation.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict

import numpy as np

from mlx_mm.backend.native import mel
from mlx_mm.errors import ConfigError, InputError, is_number, shown, whole_number
from mlx_mm.models.clap.config import ModelConfig
from mlx_mm.models.modalities import lacking, present, require_text
from mlx_mm.processing.arguments import Texts, flag, optional_flag
from mlx_mm.processing.audio import (
    AudioSource,
    Floats,
    as_audio,
    count_samples,
    fill,
    log_mel,
    mel_bank,
    open_audio,
    resize_time,
    reusable,
    stream_audio,
)
from mlx_mm.processing.batch import Batch, collate, merge
from mlx_mm.processing.files import read_json
from mlx_mm.processing.settings import Check, count_up_to, override, refuse_options
from mlx_mm.processing.text import (
    OnCut,
    Tokenizer,
    check_length,
    check_padding,
    prepare_texts,
    refuse_task,
    text_padding,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

LONGEST_SECONDS = 600  # of a clip; released models hear 10
TEXT_LENGTH = 77  # LAION trained with texts of at most 77 tokens
# Keys of ClapFeatureExtractor's files that change no number: it stores and ignores them, or computes them anew.
_HARMLESS_KEYS = {
    "_processor_class", "auto_map", "chunk_length_s", "feature_extractor_type", "n_fft", "nb_frequency_bins",
    "nb_max_frames", "nb_max_samples", "padding_side", "padding_value", "processor_class", "return_attention_mask",
    "return_tensors", "top_db",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class AudioSettings:
    """Hugging Face's names, and the defaults of its ClapFeatureExtractor; the released files say frequency_min 50.

    sampling_rate and frequencies in Hz, hop_length and fft_window_size in samples, feature_size is the number of mels.
    """

    feature_size: int = 64
    sampling_rate: int = 48_000
    hop_length: int = 480
    max_length_s: float = 10
    fft_window_size: int = 1024
    frequency_min: float = 0
    frequency_max: float = 14_000
    truncation: str = "fusion"
    padding: str = "repeatpad"

    @property
    def length(self) -> int:
        """Samples of a clip; longer ones are cut, shorter ones padded."""
        return max(1, round(self.max_length_s * self.sampling_rate))

    def features(self, samples: Floats) -> Floats:
        """Samples (N,) -> log-mel (T, feature_size) in dB, with the filters of these settings' truncation."""
        # LAION made one kind of features with torchaudio and the other with librosa, each by its defaults.
        scale = "htk" if self.truncation == "fusion" else "slaney"
        size, low, high = self.fft_window_size, self.frequency_min, self.frequency_max
        bank = mel_bank(scale, self.feature_size, size, self.sampling_rate, low, high)
        kernel = mel.kernel_for(size)
        make_powers = None if kernel is None else functools.partial(mel.mel_powers, kernel)
        return log_mel(samples, bank, size, self.hop_length, make_powers)


class AudioOptions(TypedDict, total=False):
    """What a call may set in place of the checkpoint's file; None leaves the file's value."""

    truncation: str | None
    padding: str | None
    max_length_s: float | None
    feature_size: int | None
    hop_length: int | None
    fft_window_size: int | None
    frequency_min: float | None
    frequency_max: float | None


def _amount(value: object, most: float = 1e9) -> float | None:
    return value if is_number(value) and 0 <= value <= most else None


def _seconds(value: object) -> float | None:
    return _amount(value, LONGEST_SECONDS) or None


def _one_of(*names: str) -> Check:
    return lambda value: value if isinstance(value, str) and value in names else None, " or ".join(names)


AUDIO_CHECKS: dict[str, Check] = {
    "feature_size": count_up_to(1024),
    "sampling_rate": count_up_to(192_000),
    "hop_length": count_up_to(1 << 20),
    "max_length_s": (_seconds, f"a number of seconds above 0, at most {LONGEST_SECONDS}"),
    "fft_window_size": count_up_to(1 << 16),
    "frequency_min": (_amount, "a number of Hz, at least 0"),
    "frequency_max": (_amount, "a number of Hz, at least 0"),
    "truncation": _one_of("rand_trunc", "fusion"),
    "padding": _one_of("repeat", "repeatpad", "pad"),
}


class Processor:
    """Texts and sounds in, NumPy arrays under the model's argument names out.

    modalities: those of "text" and "audio" that the checkpoint has a tower and files for.
    """

    kind: Literal["encoder"] = "encoder"

    def __init__(self, config: ModelConfig, tokenizer: Tokenizer | None, settings: AudioSettings | None) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.settings = settings
        self.modalities = present(text=tokenizer, audio=settings)

    @classmethod
    def from_folder(cls, folder: Path, config: ModelConfig) -> Processor:
        """Read the processor files of a Hugging Face folder, of transformers 4.x or 5.x; raises ConfigError."""
        tokenizer = None if config.text_config is None else Tokenizer.find(folder)
        return cls(config, tokenizer, None if config.audio_config is None else _read_settings(folder))

    def __call__(
        self,
        *,
        text: Texts | None = None,
        audio: AudioSource | Iterable[AudioSource] | None = None,
        max_length: int | None = None,
        padding: bool | str = "longest",
        truncation: bool = True,
        do_lower_case: bool | None = None,
        seed: int = 0,
        as_transformers: bool = False,
        audio_kwargs: AudioOptions | None = None,
    ) -> Batch:
        """The arrays of `text` and `audio` in one dict, text first. Arguments as in those methods.

        audio_kwargs: the options of `audio`; max_length, padding and truncation beside it are the text's.
        """
        texts = features = None
        if text is not None:
            lower = do_lower_case
            texts = self.text(text, max_length=max_length, padding=padding, truncation=truncation, do_lower_case=lower)
        if audio_kwargs is not None and not isinstance(audio_kwargs, Mapping):
            raise InputError(f"audio_kwargs is {shown(audio_kwargs)}; expected a dict of options. Leave it out.")
        options: AudioOptions = audio_kwargs or {}
        if audio is None:
            refuse_options({"seed": seed or None, "as_transformers": as_transformers or None, **options}, "audio")
        else:
            features = self.audio(audio, seed=seed, as_transformers=as_transformers, **options)
        return merge(texts, features, "audio")

    def text(
        self,
        texts: Texts,
        *,
        task: str | None = None,
        max_length: int | None = None,
        padding: bool | str = "longest",
        truncation: bool = True,
        do_lower_case: bool | None = None,
        on_cut: OnCut | None = None,
    ) -> Batch:
        """input_ids and attention_mask, int32 (B, L), 1 = real.

        max_length: of a text with its begin and end token, by default 77 as in training; up to the model's longest.
        padding: to the "longest" of this call (or True), or to "max_length". truncation: longer texts are cut and
        keep their end token; False refuses them. do_lower_case: by default as the tokenizer's files say. on_cut:
        called with the number of tokens of each text that is cut.
        Raises InputError for arguments, ModalityError without a text tower, ConfigError for files that do not fit
        the model.
        """
        config, tokenizer = require_text(self.config.text_config, self.tokenizer, self.modalities)
        refuse_task(task)
        # A text has its begin and its end token at least.
        limit = check_length(max_length, config.max_length, usual=TEXT_LENGTH, least=2)
        check_padding(tokenizer, config.pad_token_id)
        return prepare_texts(
            tokenizer,
            texts,
            limit,
            config.vocab_size,
            padding=padding,
            truncation=flag("truncation", truncation),
            do_lower_case=optional_flag("do_lower_case", do_lower_case),
            on_cut=on_cut,
        )

    def audio(
        self,
        audio: AudioSource | Iterable[AudioSource],
        *,
        seed: int = 0,
        as_transformers: bool = False,
        **options: Unpack[AudioOptions],
    ) -> Batch:
        """input_features float32 (B, C, T, mels), in dB, and is_longer bool (B, 1).

        C is 4 for checkpoints that fuse and 1 for others; T is 1001 for 10 seconds. An option that is not None
        replaces the checkpoint's setting. truncation: see above; "windows" takes sounds that need no cutting.
        seed: of the random stretches. Each sound draws its own, so its features do not depend on the batch.
        as_transformers: draw for the whole call instead, as transformers does after np.random.seed(seed); of a batch
        without longer sounds it lets a checkpoint that fuses take one of them, at random, for longer.
        Raises MediaError for sounds that cannot be read, InputError and ModalityError for arguments.
        """
        settings, whole = self._settings(options)
        fused = settings.truncation == "fusion"
        as_transformers = flag("as_transformers", as_transformers)
        generator = _generator(seed)
        rows, longer = [], []
        for source in as_audio(audio):
            samples = open_audio(source, settings.sampling_rate)
            if whole and len(samples) > settings.length:
                raise InputError(
                    f"A sound has {len(samples)} samples and truncation is 'windows'; expected at most "
                    f"{settings.length}. Take the windows of a longer sound one by one with windows()."
                )
            if not as_transformers:
                generator.seed(seed)
            features, is_longer = _features(samples, settings, generator)
            rows.append(features)
            longer.append(is_longer)
        if as_transformers and fused and not whole and not any(longer):
            longer[generator.randint(0, len(longer))] = True
        return {"input_features": np.stack(rows), "is_longer": np.array(longer)[:, None]}

    def check_audio(self, *, seed: int = 0, **options: Unpack[AudioOptions]) -> None:
        """Raise what `audio` does for arguments that cannot be used, whatever the sounds."""
        self._settings(options)
        _generator(seed)

    def windows(self, audio: AudioSource, **options: Unpack[AudioOptions]) -> Iterator[tuple[Batch, float]]:
        """All of one sound: batches of one, each with its weight in a mean; the weights add up to 1.

        Windows of max_length_s follow each other. The last one ends where the sound does and overlaps the one before;
        it weighs as much as what it adds. A shorter sound is one window, padded as usual. Two windows are held at
        most, however long the sound is. Raises like `audio`; errors in the middle of a file come in the middle.
        """
        if options.get("truncation") not in (None, "windows"):
            raise InputError(
                f'truncation is {shown(options["truncation"])}; expected "windows", as windows() leaves nothing out. '
                "Use audio(), or leave it out."
            )
        settings, _ = self._settings({**options, "truncation": "windows"})
        sound = reusable(audio)
        return _windows(sound, settings, count_samples(sound, settings.sampling_rate))

    @property
    def window_seconds(self) -> float:
        """How long each of the `windows` is."""
        return self._settings({})[0].max_length_s

    def collate(self, items: Sequence[Batch]) -> Batch:
        """One batch from the results of several calls, in order; texts are padded to the longest.

        Raises InputError when the items differ in their keys or spectrograms in their size.
        """
        return collate(items, text_padding(self.tokenizer, items))

    def _settings(self, options: AudioOptions) -> tuple[AudioSettings, bool]:
        """The settings of a call, and whether it asks for "windows", whose filters are those of the file."""
        if self.settings is None:
            raise lacking("audio tower", "audio", self.modalities)
        given: dict[str, object] = {**options}
        if given.get("sampling_rate") is not None:
            raise InputError(
                f"sampling_rate is {shown(given['sampling_rate'])}, and the model's cannot be changed; expected the "
                "rate of samples beside them. Pass audio=(samples, sampling_rate)."
            )
        whole = given.get("truncation") == "windows"
        if whole:
            del given["truncation"]
        settings = override(self.settings, given, InputError, AUDIO_CHECKS)
        _check_band(settings, InputError)
        fused = self.config.audio_config is not None and self.config.audio_config.enable_fusion
        if (settings.truncation == "fusion") != fused:
            error = ConfigError if settings.truncation == self.settings.truncation else InputError
            raise error(
                f"truncation is {settings.truncation!r} and enable_fusion in config.json is {str(fused).lower()}; "
                f"expected {'fusion' if fused else 'rand_trunc'!r}, which this checkpoint was trained with. Use that "
                'or "windows", and files of one checkpoint.'
            )
        return settings, whole


def _generator(seed: int) -> np.random.RandomState:
    """The generator behind np.random.seed(seed), from which transformers draws."""
    return np.random.RandomState(whole_number("seed", seed, least=0, most=2**32 - 1, advice="Leave it out for 0."))


def _features(samples: Floats, settings: AudioSettings, random: np.random.RandomState) -> tuple[Floats, bool]:
    """(C, T, mels) of one sound, and whether stretches of it were chosen. Draws in the order of transformers."""
    excess = len(samples) - settings.length
    if excess <= 0:
        return _window(samples, settings), False
    if settings.truncation == "rand_trunc":
        start = random.randint(0, excess + 1)
        return settings.features(samples[start : start + settings.length])[None], True
    mel = settings.features(samples)
    frames = settings.length // settings.hop_length + 1
    if len(mel) == frames:  # longer by less than a frame
        return np.stack([mel] * 4), False
    # One stretch from each third of the places where one can begin; what is empty begins at the first.
    thirds = np.array_split(np.arange(len(mel) - frames + 1), 3)
    starts = [random.choice(third if third.size else [0]) for third in thirds]
    return np.stack([resize_time(mel, frames), *(mel[start : start + frames] for start in starts)]), True


def _window(samples: Floats, settings: AudioSettings) -> Floats:
    """(C, T, mels) of a sound that needs no cutting; a checkpoint that fuses gets the same four times."""
    mel = settings.features(fill(samples, settings.length, settings.padding))
    return np.stack([mel] * (4 if settings.truncation == "fusion" else 1))


def _windows(source: AudioSource, settings: AudioSettings, total: int) -> Iterator[tuple[Batch, float]]:
    """total: the samples of the sound, by its header."""
    length, left = settings.length, 1.0
    blocks = stream_audio(source, settings.sampling_rate, length)
    window = next(blocks)
    for block in blocks:
        # A header may promise too few samples, then what it left out counts little; the sum stays 1.
        weight = min(length / total, left)
        yield _batch_of_one(window, settings), weight
        left -= weight
        window = np.concatenate([window[len(block) :], block])
    yield _batch_of_one(window, settings), left


def _batch_of_one(samples: Floats, settings: AudioSettings) -> Batch:
    return {"input_features": _window(samples, settings)[None], "is_longer": np.zeros((1, 1), bool)}


def _read_settings(folder: Path) -> AudioSettings:
    """transformers 5.x nests them in processor_config.json, 4.x writes preprocessor_config.json."""
    values = read_json(folder / "processor_config.json").get("feature_extractor")
    if not isinstance(values, dict):
        values = read_json(folder / "preprocessor_config.json")
    if not values:
        # The defaults of transformers' class, frequency_min 0 among them, are those of no released checkpoint.
        raise ConfigError(
            f"{folder} has no settings for sounds; expected preprocessor_config.json, or processor_config.json with "
            "feature_extractor in it. Take that file from the checkpoint's hub repository."
        )
    known = [field.name for field in fields(AudioSettings)]
    for key, value in values.items():
        if key not in known and key not in _HARMLESS_KEYS and value is not None:
            raise ConfigError(
                f"The feature extractor file in {folder} has {key}: {value!r}; expected only settings of this "
                "family. Remove the key if it changes nothing; otherwise the checkpoint cannot be run."
            )
    given = {key: values[key] for key in known if key in values}
    settings = override(AudioSettings(), given, ConfigError, AUDIO_CHECKS)
    _check_band(settings, ConfigError)
    return settings


def _check_band(settings: AudioSettings, error: type[InputError] | type[ConfigError]) -> None:
    if settings.frequency_min >= settings.frequency_max:
        raise error(
            f"frequency_min is {settings.frequency_min} and frequency_max {settings.frequency_max}; expected a lower "
            "and a higher one, in Hz. Correct them, or leave them out for the default."
        )
