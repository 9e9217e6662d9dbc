"""Second stage: the whole model on conversations, with loss on the answers alone; the tower goes on slowly."""

import re
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from glm_batches import Batch, Writer, batches
from glm_concepts import LANGUAGES
from glm_lessons import Teacher
from glm_model import WIDTH, Chat, Vision
from glm_scenes import Sprites
from glm_tokenizer import SPECIAL, train_tokenizer
from glm_vision import anchors_of, batch_of, one
from stage import Stage
from tokenizers import Tokenizer

BATCH = 40
RATE = 1.5e-3
AVERAGE = 0.995  # share of the averaged weights that a step keeps; these are what is saved
REPORT_SECONDS = 120
# What is hard is a token or two of its answer; what is said by heart is many.
WEIGHTS = dict.fromkeys(("is", "count", "left", "right", "video", "colour"), 3.0)
WEIGHTS |= dict.fromkeys(("hello", "other", "no_tool"), 0.3)


def tokenizer_of(sprites: Sprites, lessons: int = 2500) -> Tokenizer:
    """Learnt from what is said in random lessons, and from every name several times."""
    teacher, writer = Teacher(sprites, np.random.default_rng(3)), Writer(None)
    cut = re.compile("|".join(map(re.escape, SPECIAL)))
    texts = [part for _ in range(lessons) for part in cut.split(writer.text(teacher.lesson())) if part]
    names = [concept.names[language] for concept in sprites.concepts for language in LANGUAGES]
    return train_tokenizer(texts + 6 * names + 3 * [f" {name}" for name in names])


def start_from_names(model: Chat, vision: Vision, sprites: Sprites, tokenizer: Tokenizer) -> None:
    """Pictures as strong as tokens, and tokens of names pointing where the pictures of their concepts point."""
    rng = np.random.default_rng(4)
    anchors = anchors_of(len(sprites.concepts))[:-1]
    with torch.no_grad():
        strength = vision(batch_of([one(rng, sprites) for _ in range(64)], sprites, rng, 0.5)[0]).square().mean().sqrt()
        model.visual.load_state_dict(vision.state_dict())
        model.visual.merger.down_proj.weight.div_(strength)
        counts = torch.zeros(model.lm_head.out_features, len(anchors))
        for number, concept in enumerate(sprites.concepts):
            for language in LANGUAGES:
                name = concept.names[language]
                for text in (name, f" {name}", name[:1].upper() + name[1:]):
                    counts[:, number] += torch.bincount(torch.tensor(tokenizer.encode(text).ids), minlength=len(counts))
        seen = counts.sum(1) > 0
        share = counts[seen] / counts[seen].sum(1, keepdim=True)
        embedded = model.model["language_model"].embed_tokens.weight
        embedded[seen] = share @ anchors * 0.5 * WIDTH**0.5 + 0.25 * torch.randn(len(share), WIDTH)
        model.lm_head.weight[seen] = share @ anchors + 0.5 * WIDTH**-0.5 * torch.randn(len(share), WIDTH)


class Tally:
    """Per skill, how many answers of the last while came out wholly right with the question and what is right before
    each token given. Lessons are fresh in each step, so this is measured on what has not been trained on yet."""

    def __init__(self) -> None:
        self.right: dict[str, float] = {}
        self.all: dict[str, float] = {}

    def add(self, batch: Batch, logits: torch.Tensor) -> None:
        wrong = torch.zeros(len(batch.skills)).index_add_(
            0, batch.answers, (logits.argmax(-1) != batch.targets).float()
        )
        for skill, misses in zip(batch.skills, wrong.tolist(), strict=True):
            self.right[skill] = self.right.get(skill, 0.0) + (misses == 0)
            self.all[skill] = self.all.get(skill, 0.0) + 1

    def __str__(self) -> str:
        line = ", ".join(f"{skill} {self.right[skill] / self.all[skill]:.0%}" for skill in sorted(self.all))
        self.right.clear()
        self.all.clear()
        return line


def train_chat(model: Chat, sprites: Sprites, tokenizer: Tokenizer, minutes: float, seed: int, out: Path, rate: float):
    average = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def save() -> None:
        torch.save(average, out / "average.pt")

    parts = [model.model["language_model"], model.lm_head]
    stage = Stage("chat", minutes, parts, rate, save, slow=[model.visual])
    lessons = batches(Writer(tokenizer), Teacher(sprites, np.random.default_rng(seed)), BATCH)
    tally, reported = Tally(), time.monotonic()
    for _ in stage:
        batch = next(lessons)
        logits = model(batch.ids, batch.positions, batch.pictures, batch.is_picture, batch.wanted)
        weights = torch.tensor([WEIGHTS.get(skill.split()[0], 1.0) for skill in batch.skills])[batch.answers]
        losses = F.cross_entropy(logits, batch.targets, reduction="none")
        stage.descend((losses * weights).sum() / weights.sum())
        tally.add(batch, logits.detach())
        keep = min(AVERAGE, stage.step_count / (stage.step_count + 20))
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                average[name].lerp_(tensor, 1 - keep)
        if time.monotonic() - reported > REPORT_SECONDS:
            reported = time.monotonic()
            print(f"  {time.strftime('%H:%M')} {time.process_time() / 60:.1f} CPU minutes: {tally}", flush=True)
    save()
