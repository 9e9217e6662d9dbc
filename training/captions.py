"""Training texts: every word of every concept, in templates or bare, spelt with and without BPE dropout."""

import numpy as np
import torch
from concepts import FAMILY_TEMPLATE, LANGUAGES, TEMPLATES, Concept, is_held_out
from tokenizer import encode, train_tokenizer, with_dropout
from tokenizers import Tokenizer

TEXT_LENGTH = 16  # holds the family template around 99 % of the names
VOCABULARY = 8192


class Captions:
    """All training words of all (concept, language) pairs that are not held out."""

    def __init__(self, concepts: list[Concept], tokenizer: Tokenizer):
        self.words = [
            {lang: (c.names[lang], *c.keywords[lang]) for lang in LANGUAGES if not is_held_out(c, lang)}
            for c in concepts
        ]
        self.tokenizer = tokenizer
        self.spelling = with_dropout(tokenizer, 0.1)
        users: dict[tuple[str, str], list[int]] = {}
        for number, by_language in enumerate(self.words):
            for language, words in by_language.items():
                for word in words:
                    users.setdefault((language, word.lower()), []).append(number)
        self.users = users

    def draw(self, concepts: np.ndarray, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """One caption for each of B concepts -> (ids (B, L), truth (B, C): 1 where the caption fits a concept)."""
        texts, truth = [], torch.zeros(len(concepts), len(self.words))
        for row, number in enumerate(concepts):
            languages = self.words[number]
            language = "en" if rng.random() < 0.12 else tuple(languages)[rng.integers(len(languages))]
            words = languages[language]
            # The short name is as frequent as all keywords together.
            word = words[0] if len(words) == 1 or rng.random() < 0.5 else words[rng.integers(1, len(words))]
            texts.append(caption(word, language, rng))
            truth[row, self.users[language, word.lower()]] = 1
        tokenizer = self.spelling if rng.random() < 0.5 else self.tokenizer
        return torch.tensor(encode(tokenizer, texts, TEXT_LENGTH)), truth


def caption(word: str, language: str, rng: np.random.Generator) -> str:
    chance = rng.random()
    if chance < 0.5:
        return word
    if chance < 0.7:
        return FAMILY_TEMPLATE.format(word)
    templates = TEMPLATES[language if chance < 0.95 else "en"]
    return templates[rng.integers(len(templates))].format(word)


def learn_vocabulary(concepts: list[Concept]) -> Tokenizer:
    words = [
        word
        for c in concepts
        for lang in LANGUAGES
        if not is_held_out(c, lang)
        for word in (*[c.names[lang]] * 3, *c.keywords[lang])
    ]
    # Words occur at the start of a text and, after a space, inside a template: two different pieces.
    frames = [t.format("") for lang in LANGUAGES for t in (*TEMPLATES[lang], FAMILY_TEMPLATE)] * 60
    return train_tokenizer(words + [f" {word}" for word in words] + frames, VOCABULARY)
