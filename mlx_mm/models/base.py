"""What every family offers, and the reading of its configuration.

A family is a folder of `models/` with these files and names:

    config.py     ModelConfig.from_dict(config.json) -> ModelConfig
    model.py      ARCHITECTURES: `architectures[0]` of config.json -> model class; "" is the default. A class has
                  modalities, score_function, prompt_template, sanitize(weights), quant_predicate(path, module)
                  and get_{text,image,audio}_features(**batch) -> (B, D), not normalised; a classifier has
                  class_scores(logits) and the names of its classes in `labels`, which is None elsewhere
    processor.py  Processor.from_folder(folder, config) with .text(), .images(), .audio() and .collate(),
                  whose keys are the arguments of the model

`tests/test_architecture.py` checks each family for them.
"""

import dataclasses
from typing import Any, TypeVar

from mlx_mm.errors import ConfigError

Config = TypeVar("Config", bound="BaseConfig")


@dataclasses.dataclass(frozen=True)
class BaseConfig:
    """A frozen dataclass whose fields are keys of config.json."""

    @classmethod
    def from_dict(cls: type[Config], values: dict[str, Any]) -> Config:
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
        config = cls(**{f.name: values[f.name] for f in fields if f.name in values})
        for f in fields:
            _check_type(f.name, getattr(config, f.name), f.type)
        config.validate()
        return config

    def validate(self) -> None:
        """Raise ConfigError for values that would change the arithmetic or cannot be built."""


def _check_type(name: str, value: Any, annotation: Any) -> None:
    """Hold a value of JSON against the annotation of its field."""
    if annotation == int | None:
        if value is None:
            return
        annotation = int
    number = isinstance(value, int | float) and not isinstance(value, bool)
    fits, expected = {
        int: (number and isinstance(value, int) and value > 0, "a whole number above 0"),
        float: (number, "a number"),
        str: (isinstance(value, str), "text"),
        bool: (isinstance(value, bool), "true or false"),
    }[annotation]
    if not fits:
        raise ConfigError(f"config.json has {name} = {value!r}; expected {expected}.")


def require_divisible(dims: int, heads: int) -> None:
    """Raise ConfigError unless `heads` divides `dims`."""
    if dims % heads:
        raise ConfigError(
            f"config.json has hidden_size {dims} and num_attention_heads {heads}; the heads must divide the size. "
            "Use the complete config.json of the checkpoint."
        )


def widen_mlps(values: dict[str, Any], config: Any, multiple: int) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """Round each tower's `intermediate_size` up to a multiple, so that its MLP can be quantised in groups.

    An MLP whose activation maps 0 to 0 may be wider for free: the added units have zero weights. values is
    config.json, config what the family read from it. Returns the new config.json, of which the wider model is
    built like any other, and a record {key: [old, new]} of what changed.
    """
    result, record = dict(values), {}
    for section in ("text_config", "vision_config"):
        tower = getattr(config, section)
        if tower is None or tower.intermediate_size % multiple == 0:
            continue
        wider = -(-tower.intermediate_size // multiple) * multiple
        if isinstance(values.get(section), dict):
            result[section] = {**values[section], "intermediate_size": wider}
            record[f"{section}.intermediate_size"] = [tower.intermediate_size, wider]
        else:  # a tower saved alone has its keys at the top
            result["intermediate_size"] = wider
            record["intermediate_size"] = [tower.intermediate_size, wider]
    return result, record
