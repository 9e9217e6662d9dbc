"""A small Gemma-style tokenizer: lower-casing, "▁" for spaces, BPE with byte fallback, `<eos>` at the end."""

import json

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>")
PAD_ID, EOS_ID = 0, 1
RESERVED_IDS = len(SPECIAL)
BYTES = tuple(f"<0x{value:02X}>" for value in range(256))


def train_tokenizer(texts: list[str], vocab_size: int) -> Tokenizer:
    """Learn the merges on `texts`; ids are special tokens, then 256 bytes, then the learnt pieces."""
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(" ", "▁")])
    # Merges must not cross words, or "photo▁of▁a" would become one piece and hide its parts.
    learner.pre_tokenizer = pre_tokenizers.Split(Regex("▁?[^▁]+|▁"), "isolated")
    reserved = RESERVED_IDS + len(BYTES)
    learner.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=vocab_size - reserved, limit_alphabet=4000, show_progress=False)
    )
    learnt = json.loads(learner.to_str())["model"]
    pieces = sorted(learnt["vocab"], key=learnt["vocab"].get)
    vocab = {piece: index for index, piece in enumerate((*SPECIAL, *BYTES, *pieces))}
    return assemble(vocab, [tuple(merge) for merge in learnt["merges"]])


def assemble(vocab: dict[str, int], merges: list[tuple[str, str]], dropout: float | None = None) -> Tokenizer:
    """The inference pipeline. `dropout` skips merges at random: training then sees words in many spellings."""
    tokenizer = Tokenizer(
        models.BPE(vocab, merges, dropout=dropout, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", pair="$A <eos> $B:1 <eos>:1", special_tokens=[("<eos>", EOS_ID)]
    )
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def with_dropout(tokenizer: Tokenizer, dropout: float) -> Tokenizer:
    model = json.loads(tokenizer.to_str())["model"]
    return assemble(model["vocab"], [tuple(merge) for merge in model["merges"]], dropout)


def encode(tokenizer: Tokenizer, texts: list[str], length: int) -> list[list[int]]:
    """Rows of exactly `length` ids: cut so that `<eos>` stays last, padded on the right."""
    rows = []
    for encoding in tokenizer.encode_batch(texts):
        ids = encoding.ids if len(encoding.ids) <= length else [*encoding.ids[: length - 1], EOS_ID]
        rows.append(ids + [PAD_ID] * (length - len(ids)))
    return rows
