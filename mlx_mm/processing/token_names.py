"""What tokenizer_config.json names, held to its types."""

from collections.abc import Mapping
from pathlib import Path

from mlx_mm.errors import ConfigError
from mlx_mm.processing.plain import quoted

_ADVICE = "Use the file of the checkpoint's hub repository."


def token_text(named: Mapping[str, object], key: str, folder: Path) -> str:
    """A token, which is written as its text, or as an object with its text and its matching rules; ConfigError."""
    value = named.get(key)
    token = value.get("content") if isinstance(value, dict) else value
    if not isinstance(token, str) or any("\ud800" <= character <= "\udfff" for character in token):
        found = "names no" if token is None else f"has {quoted(token)} for"
        raise ConfigError(
            f'tokenizer_config.json in {folder} {found} {key}; expected its text, such as "<{key[:3]}>". {_ADVICE}'
        )
    return token


def named_value(named: Mapping[str, object], key: str, kind: type, folder: Path) -> object:
    """A value that may be missing; ConfigError for one of another kind."""
    value = named.get(key)
    if value is not None and not isinstance(value, kind):
        raise ConfigError(
            f"tokenizer_config.json in {folder} has {key} {quoted(value)}; expected a {kind.__name__}. {_ADVICE}"
        )
    return value
