"""Lessons as token ids: the template rendered, media written out, answers marked, batches of like length."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from glm_lessons import Lesson, Teacher
from glm_model import positions_of
from glm_scenes import CELL
from glm_vision import random_shape
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

TEMPLATE = Path(__file__).with_name("glm_template.jinja")
AHEAD = 6  # batches that are sorted by length together
IMAGE, VIDEO = "<|image|>", "<|video|>"


class Batch(NamedTuple):
    """ids, wanted and is_picture (B, L); positions (3, B, L); targets and answers: of each wanted token, what follows
    it and which answer that belongs to; skills: of each answer."""

    ids: torch.Tensor
    positions: torch.Tensor
    pictures: torch.Tensor | None
    is_picture: torch.Tensor
    wanted: torch.Tensor
    targets: torch.Tensor
    answers: torch.Tensor
    skills: list[str]


class Writer:
    """Lessons to token ids, by the template and tokenizer that are released."""

    def __init__(self, tokenizer: Tokenizer | None):
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.filters["tojson"] = lambda value, ensure_ascii=True: json.dumps(value, ensure_ascii=ensure_ascii)
        self.template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
        self.tokenizer = tokenizer

    def text(self, lesson: Lesson) -> str:
        """The whole conversation and the token that ends it."""
        messages = [{"reasoning_content": None, "tool_calls": None, **message} for message in lesson.messages]
        thinking = {} if lesson.thinking else {"enable_thinking": False}
        text = self.template.render(messages=messages, tools=lesson.tools, add_generation_prompt=False, **thinking)
        if lesson.pictures:
            rows, cols = (side // CELL for side in lesson.pictures[0].shape[:2])
            shown = IMAGE * (rows * cols)
            frames = [f"<|begin_of_image|>{shown}<|end_of_image|>{at:.1f} seconds" for at in lesson.seconds]
            text = text.replace(VIDEO, "".join(frames)) if frames else text.replace(IMAGE, shown)
        return text + "<|user|>"

    def ids(self, lesson: Lesson) -> tuple[list[int], list[int]]:
        """Token ids, and for each token the number of the answer that it belongs to, -1 for none."""
        ids = self.tokenizer.encode(self.text(lesson), add_special_tokens=False).ids
        known = {name: self.tokenizer.token_to_id(name) for name in ("<|assistant|>", "<think>", "</think>")}
        ends = {self.tokenizer.token_to_id(name) for name in ("<|user|>", "<|observation|>")}
        answer, answers, place = -1, [-1] * len(ids), 0
        while place < len(ids):
            if ids[place] != known["<|assistant|>"]:
                place += 1
                continue
            answer, place = answer + 1, place + 2
            if ids[place : place + 2] == [known["<think>"], known["</think>"]]:
                place += 3
            while True:
                answers[place] = answer
                place += 1
                if ids[place - 1] in ends:
                    break
        assert answer + 1 == len(lesson.skills), self.text(lesson)
        return ids, answers


def batches(writer: Writer, teacher: Teacher, size: int) -> Iterator[Batch]:
    """Endless batches; the pictures of one have one shape."""
    image = writer.tokenizer.token_to_id(IMAGE)
    while True:
        shape = random_shape(teacher.rng)
        lessons = [teacher.lesson(shape) for _ in range(AHEAD * size)]
        rows = [(*writer.ids(lesson), lesson) for lesson in lessons]
        rows.sort(key=lambda row: len(row[0]))
        groups = [rows[start : start + size] for start in range(0, len(rows), size)]
        for number in teacher.rng.permutation(len(groups)):
            yield _batch(groups[number], image, shape)


def _batch(rows: list[tuple[list[int], list[int], Lesson]], image: int, shape: tuple[int, int]) -> Batch:
    length = max(len(ids) for ids, _, _ in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    answers = torch.full((len(rows), length), -1)
    positions = torch.zeros(3, len(rows), length, dtype=torch.long)
    skills: list[str] = []
    for number, (own, parts, lesson) in enumerate(rows):
        ids[number, : len(own)] = torch.tensor(own)
        marks = torch.tensor(parts)
        answers[number, : len(own)] = torch.where(marks >= 0, marks + len(skills), -1)
        skills += lesson.skills
        kinds = [int(token == image) for token in own]
        positions[:, number, : len(own)] = positions_of(kinds, shape[0] // CELL, shape[1] // CELL)
    following = torch.cat([answers[:, 1:], torch.full((len(rows), 1), -1)], 1)
    wanted = following >= 0
    pictures = [picture for _, _, lesson in rows for picture in lesson.pictures]
    return Batch(
        ids,
        positions,
        torch.from_numpy(np.stack(pictures)) if pictures else None,
        ids == image,
        wanted,
        torch.cat([ids[:, 1:], ids[:, :1]], 1)[wanted],
        following[wanted],
        skills,
    )
