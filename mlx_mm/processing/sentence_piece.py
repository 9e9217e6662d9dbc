"""A SentencePiece file in the place of a tokenizer.json."""

from pathlib import Path
from types import SimpleNamespace

from mlx_mm.errors import ConfigError


class SentencePiece:
    """A SentencePiece file with those methods of tokenizers.Tokenizer that are used here; it adds no end token."""

    def __init__(self, path: Path, do_lower_case: bool) -> None:
        from sentencepiece import SentencePieceProcessor

        try:
            self._model = SentencePieceProcessor(model_file=str(path))
        except (OSError, RuntimeError) as error:
            raise ConfigError(
                f"{path} cannot be read ({error}); expected a SentencePiece model. Download it again."
            ) from error
        self._do_lower_case = do_lower_case

    def encode_batch(self, texts: list[str]) -> list[SimpleNamespace]:
        texts = [text.lower() for text in texts] if self._do_lower_case else texts
        return [SimpleNamespace(ids=ids) for ids in self._model.encode(texts, out_type=int)]

    def token_to_id(self, token: str) -> int | None:
        index: int = self._model.piece_to_id(token)
        return index if self._model.id_to_piece(index) == token else None  # unknown pieces get the unknown id

    def get_vocab_size(self, *, with_added_tokens: bool) -> int:
        size: int = self._model.get_piece_size()
        return size
