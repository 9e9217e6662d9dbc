"""A SentencePiece file in the place of a tokenizer.json."""

from pathlib import Path
from types import SimpleNamespace

from mlx_mm.errors import ConfigError, foreign
from mlx_mm.processing.files import read_regular

MAX_BYTES = 64 << 20  # the largest of a supported checkpoint has 4 MB


class SentencePiece:
    """A SentencePiece file with what of tokenizers.Tokenizer is used here; it adds no end token."""

    normalizer = decoder = None

    def __init__(self, path: Path, do_lower_case: bool) -> None:
        from sentencepiece import SentencePieceProcessor

        with foreign(ConfigError, f"{path} cannot be read", "expected a SentencePiece model. Download it again."):
            self._model = SentencePieceProcessor()
            self._model.LoadFromSerializedProto(read_regular(path, MAX_BYTES))
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
