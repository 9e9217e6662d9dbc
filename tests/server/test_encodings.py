"""Vectors and scores of an engine: those that `encode_*` and `classify` give, whoever else asks meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from asked import SECONDS, drawn, error_of, idle, question, serving

from mlx_mm import classify, encode_audio, encode_image, encode_text, load
from mlx_mm.errors import InputError, MediaError, ModalityError
from mlx_mm.server.engine import Broken

Checkpoint = Callable[..., Path]
TEXTS = ["a cat", "a dog, a dog", "x", "ein Hund", ""] * 9
PICTURES = [drawn(seed, 20 + seed, 30) for seed in range(11)]
SOUNDS = [(np.sin(np.arange(16_000 * (1 + 5 * seed)) / (9 + seed)).astype(np.float32), 16_000) for seed in range(3)]


def test_vectors_are_those_alone_whatever_else_is_asked(tiny_checkpoint: Checkpoint) -> None:
    pictured, heard = tiny_checkpoint("siglip2", name="sees"), tiny_checkpoint("clap", name="hears")
    sees, hears = load(pictured), load(heard)
    with serving(pictured, heard) as engine:
        texts = [engine.embed("sees", "text", TEXTS[start:]) for start in (0, 7, 30)]
        pictures = [engine.embed("sees", "image", PICTURES[start:], dim=5, normalize=False) for start in (0, 5)]
        sounds = [engine.embed("hears", "audio", SOUNDS[start:]) for start in (0, 1)]
        scores = engine.classify("sees", PICTURES[:3], ["cat", "dog", "owl"], template=["{}", "a {}"])
        heard_as = engine.classify("hears", SOUNDS[:2], ["cat", "dog"])
        wanted = [encode_text(*sees, TEXTS), encode_image(*sees, PICTURES, dim=5, normalize=False)]
        for tickets, want, starts in zip((texts, pictures), wanted, ((0, 7, 30), (0, 5)), strict=True):
            for ticket, start in zip(tickets, starts, strict=True):
                assert np.abs(ticket.done(SECONDS).result - want[start:]).max() <= 1e-6
        want = encode_audio(*hears, SOUNDS)
        for ticket, start in zip(sounds, (0, 1), strict=True):
            assert np.abs(ticket.done(SECONDS).result - want[start:]).max() <= 1e-6
        assert [served.dimensions for served in engine.models()] == [wanted[0].shape[1], want.shape[1]]
        for ticket, rows in (
            (scores, classify(*sees, PICTURES[:3], ["cat", "dog", "owl"], template=["{}", "a {}"])),
            (heard_as, classify(*hears, SOUNDS[:2], ["cat", "dog"])),
        ):
            for found, row in zip(ticket.done(SECONDS).result, rows, strict=True):
                assert dict(found) == pytest.approx(dict(row), abs=1e-6)
                assert [label for label, _ in found] == [label for label, _ in row]
        assert idle(engine)["waiting"] == 0


def test_a_request_that_fails_fails_alone(tiny_checkpoint: Checkpoint) -> None:
    folder = tiny_checkpoint("siglip2", name="sees")
    want = encode_image(*load(folder), PICTURES[:2])
    with serving(folder) as engine:
        fine = engine.embed("sees", "image", PICTURES[:2])
        assert isinstance(error_of(engine.embed("sees", "image", [PICTURES[0], b"no picture"])), MediaError)
        assert isinstance(error_of(engine.embed("sees", "audio", SOUNDS)), ModalityError)
        assert isinstance(error_of(engine.embed("sees", "image", PICTURES[:1], task="query")), InputError)
        assert isinstance(error_of(engine.embed("sees", "text", ["a"], dim=10**6)), InputError)
        assert isinstance(error_of(engine.embed("sees", "text", ["a"], dim=0)), InputError)
        assert isinstance(error_of(engine.classify("sees", PICTURES[:1], ["a"], template="none")), InputError)
        assert isinstance(error_of(engine.chat("sees", question("Hello."))), ModalityError)
        assert np.abs(fine.done(SECONDS).result - want).max() <= 1e-6


def test_requests_that_fail_together_run_again_alone(
    tiny_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two kinds of requests share a turn; where that fails, only one of them has to."""
    folder = tiny_checkpoint("siglip2", name="sees")
    want = encode_text(*load(folder), ["a cat"])
    from mlx_mm.models.siglip2.processor import Processor

    usual = Processor.collate

    def collate(self: Processor, items: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        if any((batch["input_ids"] == guilty).all() for batch in items if "input_ids" in batch):
            raise RuntimeError("guilty")
        return usual(self, items)

    guilty = load(folder)[1].text(["guilty"])["input_ids"]
    monkeypatch.setattr(Processor, "collate", collate)
    with serving(folder) as engine:
        engine.embed("sees", "text", ["warm"]).done(SECONDS)
        tickets = [engine.embed("sees", "text", [text]) for text in ("a cat", "guilty", "a cat")]
        assert isinstance(error_of(tickets[1]), Broken)
        for ticket in (tickets[0], tickets[2]):
            assert np.abs(ticket.done(SECONDS).result - want).max() <= 1e-6


def test_weights_are_given_back_and_read_again(tiny_checkpoint: Checkpoint) -> None:
    folder = tiny_checkpoint("siglip2", name="sees")
    want = encode_text(*load(folder), ["a cat"])
    with serving(folder, idle_unload=0.05) as engine:
        assert engine.stats()["models_loaded"] == 0
        (before,) = engine.models()
        assert (before.kind, before.loaded, before.fingerprint) == ("encoder", False, None)
        for _ in range(2):
            assert np.abs(engine.embed("sees", "text", ["a cat"]).done(SECONDS).result - want).max() <= 1e-6
            last = time.monotonic() + SECONDS
            while engine.stats()["models_loaded"]:
                assert time.monotonic() < last
                time.sleep(0.01)
        assert engine.models()[0].fingerprint


def test_who_leaves_is_not_encoded(tiny_checkpoint: Checkpoint) -> None:
    with serving(tiny_checkpoint("siglip2", name="sees")) as engine:
        engine.embed("sees", "text", ["a"]).done(SECONDS)
        ticket = engine.embed("sees", "image", PICTURES * 20)
        ticket.cancel()
        assert idle(engine)["encoded_items_total"] < 100
        assert not ticket.ended
