"""How a family reads its configuration: frozen dataclasses whose fields are keys of config.json."""

import abc
import dataclasses
from collections.abc import Collection
from typing import Annotated, Protocol, TypeAlias, TypeGuard, TypeVar

from mlx_mm.errors import ConfigError, is_number, is_whole, shown

Config = TypeVar("Config", bound="BaseConfig")
# What a whole number counts, where it is not the length of some axis. Each layer has tensors of its own; a limit says
# how many there may be of something that no tensor has an axis for, such as rotary positions.
Layers: TypeAlias = Annotated[int, "layers"]
Limit: TypeAlias = Annotated[int, "limit"]
TokenId: TypeAlias = Annotated[int, "id"]
FromZero: TypeAlias = Annotated[int, "0 or more"]
MAX_COUNT = 2**31 - 1  # of an axis of an mlx array
MAX_FLOAT = 3.4e38  # of float32
MAX_STAGES = 100  # of numbers in a list, such as one for each stage of a tower
MAX_LABELS = 1_000_000
FEW_LAYERS, FEW_NUMBERS = 128, 1 << 24  # which are built in no time, whatever the weights


@dataclasses.dataclass(frozen=True)
class BaseConfig:
    """A frozen dataclass whose fields are keys of config.json."""

    @classmethod
    def from_dict(cls: type[Config], values: dict[str, object]) -> Config:
        """Pick this config's fields from `values`; other keys do not concern the model and are ignored.

        Raises ConfigError that names every missing key, a value of the wrong type, or what `validate` finds.
        """
        fields = dataclasses.fields(cls)
        required = [f.name for f in fields if f.default is dataclasses.MISSING]
        if missing := [name for name in required if name not in values]:
            raise ConfigError(
                f"config.json lacks {', '.join(missing)}; {cls.__module__.split('.')[-2]} needs "
                f"{'it' if len(missing) == 1 else 'them'}. Use the complete config.json of the checkpoint."
            )
        config = cls(**{f.name: _as_field(values[f.name], f.type) for f in fields if f.name in values})
        for f in fields:
            _check_type(f.name, getattr(config, f.name), f.type)
        config.validate()
        return config

    def validate(self) -> None:
        """Raise ConfigError for values that would change the arithmetic or cannot be built."""


def _as_field(value: object, annotation: object) -> object:
    """JSON has lists where a frozen dataclass has tuples."""
    return tuple(value) if isinstance(value, list) and annotation == tuple[int, ...] else value


def _check_type(name: str, value: object, annotation: object) -> None:
    """Hold a value of JSON against the annotation of its field."""
    for kind in (int, TokenId):
        if annotation == kind | None:
            if value is None:
                return
            annotation = kind
    count = is_count(value), "a whole number above 0"
    kinds: dict[object, tuple[bool, str]] = {
        int: count,
        Layers: count,
        Limit: count,
        FromZero: (is_token_id(value), "a whole number of 0 or more"),
        TokenId: (is_token_id(value), "the id of a token, a whole number of 0 or more"),
        tuple[int, ...]: (
            isinstance(value, tuple) and len(value) <= MAX_STAGES and all(map(is_count, value)),
            "a short list of whole numbers above 0",
        ),
        float: (is_number(value) and 0 < value <= MAX_FLOAT, "a number above 0"),
        str: (isinstance(value, str), "text"),
        bool: (isinstance(value, bool), "true or false"),
    }
    fits, expected = kinds[annotation]
    if not fits:
        raise ConfigError(f"config.json has {name} = {shown(value)}; expected {expected}.")


def is_count(value: object) -> TypeGuard[int]:
    """Whether a value of JSON can be a size or a number of things."""
    return is_whole(value) and 0 < value <= MAX_COUNT


def is_token_id(value: object) -> TypeGuard[int]:
    """Whether a value of JSON can be the id of a token."""
    return is_whole(value) and 0 <= value <= MAX_COUNT


@dataclasses.dataclass(frozen=True)
class StoredSizes:
    """What the tensors of a folder allow a config to ask for.

    layers: so many tensors there are, and every layer has some. numbers: the most in one tensor.
    """

    layers: int = 0
    numbers: int = 0


def check_sizes(config: object, stored: StoredSizes) -> None:
    """Raise ConfigError where a config, or one inside it, asks for more than the tensors beside it can have.

    This is coarse, so that nothing is built without end: what takes next to no time and memory to build passes, and
    must then have the very names and shapes of the tensors.
    """
    assert dataclasses.is_dataclass(config)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            check_sizes(value, stored)
        elif field.type in (int, Layers, int | None, tuple[int, ...]) and value is not None:
            asked = max(value, default=0) if isinstance(value, tuple) else value
            if field.type == Layers:
                most, found = max(stored.layers, FEW_LAYERS), f"{stored.layers:,} tensors in all"
            else:
                most, found = max(stored.numbers, FEW_NUMBERS), f"no tensor of more than {stored.numbers:,} numbers"
            if asked > most:
                raise ConfigError(
                    f"config.json has {field.name} = {shown(value)}, and the weights beside it have {found}. "
                    "Use the config.json and the weights of one and the same checkpoint."
                )


class Tensors(Protocol):
    """The tensors of a folder, as `checkpoint.reading` has them."""

    is_mlx: bool

    @property
    def names(self) -> Collection[str]: ...
    def same(self, first: str, second: str) -> bool: ...


@dataclasses.dataclass(frozen=True)
class FamilyConfig(abc.ABC):
    """What a family's ModelConfig has beside its own fields."""

    @classmethod
    @abc.abstractmethod
    def from_dict(cls, values: dict[str, object]) -> "FamilyConfig":
        """Read config.json; raises ConfigError."""

    @property
    def licence(self) -> str | None:
        """The licence under which all published checkpoints stand, where it restricts their use; otherwise None."""
        return None

    @property
    def without_vectors(self) -> tuple[str, ...]:
        """The modalities whose tower has no head, so that an encoder gives hidden states of them and no vectors."""
        return ()

    @classmethod
    def settled(cls, values: dict[str, object], tensors: "Tensors") -> dict[str, object]:
        """config.json as the tensors have it, where it says otherwise and they are to be believed."""
        return values

    @classmethod
    def complete(cls, values: dict[str, object]) -> dict[str, object]:
        """config.json as `convert` writes it, with keys for other programs that run our files and a source may lack.

        It is read as the same config.
        """
        return values

    @classmethod
    def widened(cls, values: dict[str, object], multiple: int) -> tuple[dict[str, object], dict[str, list[int]]]:
        """config.json with the widths of MLPs rounded up to a multiple, so that groups of weights divide them.

        The wider model is built of it like any other, and computes the same once what was added is zero. Returns it
        with a record {dotted key: [old, new]} of what changed. A family whose MLPs cannot be widened changes nothing.
        """
        return values, {}


@dataclasses.dataclass(frozen=True)
class TowerConfig(BaseConfig):
    """What every tower of the CLIP kind has; a family adds the defaults of its classes."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: Layers
    num_attention_heads: int
    hidden_act: str
    layer_norm_eps: float

    def validate(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"config.json has hidden_size {self.hidden_size} and num_attention_heads {self.num_attention_heads}; "
                "the heads must divide the size. Use the complete config.json of the checkpoint."
            )


def tower_sections(
    values: dict[str, object], other: str = "vision"
) -> tuple[dict[str, object] | None, dict[str, object] | None]:
    """The text section of a config.json and that of the `other` tower; None for the tower it is without.

    A tower saved alone has its keys at the top, and a `model_type` that ends in _text_model or, for example,
    _vision_model. A class of one tower that is named over a joint file has its section and no other.
    """
    model_type = str(values["model_type"])
    if model_type.endswith("_text_model"):
        return values, None
    if model_type.endswith(f"_{other}_model"):
        return None, values
    text, second = (values.get(key) for key in ("text_config", f"{other}_config"))
    if not isinstance(text, dict) or not isinstance(second, dict):
        missing = [f"{name}_config" for name, part in (("text", text), (other, second)) if not isinstance(part, dict)]
        raise ConfigError(
            f"config.json lacks {' and '.join(missing)}; a {model_type} model needs both towers. "
            "Use the complete config.json of the checkpoint."
        )
    name = architecture(values)
    if f"{other.capitalize()}Model" in name:
        return None, second
    return text, None if "TextModel" in name else second


def architecture(values: dict[str, object]) -> str:
    """The class that a config.json names first; "" where it names none."""
    names = values.get("architectures")
    return str(names[0]) if isinstance(names, list) and names else ""


def label_names(values: dict[str, object]) -> tuple[str, ...]:
    """`id2label` in the order of its ids; transformers' default is two labels, LABEL_0 and LABEL_1."""
    names = values.get("id2label")
    if names is None:
        count = values.get("num_labels", 2)
        if not is_whole(count) or not 0 < count <= MAX_LABELS:
            raise ConfigError(
                f"config.json has num_labels = {shown(count)}; expected a whole number above 0, {MAX_LABELS:,} at most."
            )
        return tuple(f"LABEL_{i}" for i in range(count))
    if not isinstance(names, dict) or {*map(str, names)} != {*map(str, range(len(names)))}:
        raise ConfigError("config.json has an id2label that does not name every label from 0 on, each once.")
    ordered = [names[str(i)] for i in range(len(names))]
    for label in ordered:
        if isinstance(label, list | dict) or label is None:
            raise ConfigError(f"config.json has an id2label with {shown(label)} as a label; expected text.")
    return tuple(map(str, ordered))


def problem_type(values: dict[str, object]) -> str | None:
    """Which scores a classification head gives; only "multi_label_classification" is told from the others."""
    value = values.get("problem_type")
    return value if isinstance(value, str) else None


def widen_mlps(
    values: dict[str, object], config: FamilyConfig, multiple: int
) -> tuple[dict[str, object], dict[str, list[int]]]:
    """Round the `intermediate_size` of towers up to a multiple: `FamilyConfig.widened` of families that have it.

    An MLP whose activation maps 0 to 0 may be wider for free: the added units have zero weights. So may the last
    matrix of any MLP, over zeros that the family appends. config: what the family read from values.
    """
    record: dict[str, list[int]] = {}
    for section in ("text_config", "vision_config"):
        width = getattr(getattr(config, section, None), "intermediate_size", None)  # not every family has both
        if isinstance(width, int):
            values, changed = round_up(values, section, "intermediate_size", width, multiple)
            record |= changed
    return values, record


def round_up(
    values: dict[str, object], section: str, key: str, width: int, multiple: int
) -> tuple[dict[str, object], dict[str, list[int]]]:
    """The same for one width, the value of `key` in a section. A tower saved alone has its keys at the top."""
    if width % multiple == 0:
        return values, {}
    wider = -(-width // multiple) * multiple
    parts = {name: part for name in (section, f"{section}_dict") if isinstance(part := values.get(name), dict)}
    if not parts:
        return values | {key: wider}, {key: [width, wider]}
    widened: dict[str, object] = {name: part | {key: wider} for name, part in parts.items()}
    return values | widened, {f"{section}.{key}": [width, wider]}
