"""One training stage as a loop over progress: learning rates, optimizers, report, and a save now and then."""

import math
import time

import torch
from muon import Muon

MATRIX_RATE = 2.0  # Muon's rate in units of AdamW's
SAVE_SECONDS = 300  # a long run that is interrupted should leave something
SLOW = 0.35  # rate of what has learnt before and should keep most of it


class Stage:
    """Steps until the stage's minutes are over; the rate warms up, then falls to zero along a cosine."""

    def __init__(self, name: str, minutes: float, modules: list[torch.nn.Module], rate: float, save=None, slow=()):
        self.name, self.seconds, self.save = name, minutes * 60, save
        self.parameters, self.optimizers = [], []
        for part, own_rate in ((modules, rate), (slow, SLOW * rate)):
            named = [item for module in part for item in module.named_parameters()]
            matrices = [p for name, p in named if is_matrix(name, p)]
            others = [p for name, p in named if not is_matrix(name, p)]
            self.parameters += [*matrices, *others]
            if others:
                self.optimizers.append(torch.optim.AdamW(others, lr=own_rate, weight_decay=0.02, betas=(0.9, 0.98)))
            if matrices:
                self.optimizers.append(Muon(matrices, lr=MATRIX_RATE * own_rate, weight_decay=0.02))
        self.step_count, self.average = 0, None

    def __iter__(self):
        start = report = saved = time.monotonic()
        full_rates = [group["lr"] for group in self.groups()]
        while (now := time.monotonic()) - start < self.seconds:
            progress = (now - start) / self.seconds
            factor = min(1.0, (self.step_count + 1) / 60) * (0.5 + 0.5 * math.cos(math.pi * progress))
            for group, rate in zip(self.groups(), full_rates, strict=True):
                group["lr"] = rate * factor
            yield progress
            self.step_count += 1
            if now - report > 30:
                report = now
                print(f"{self.name} {progress:.0%} step {self.step_count} loss {self.average:.3f}", flush=True)
            if self.save and now - saved > SAVE_SECONDS:
                saved = now
                self.save()

    def groups(self) -> list[dict]:
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def descend(self, loss: torch.Tensor) -> None:
        for parameter in self.parameters:
            parameter.grad = None
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        value = loss.item()
        self.average = value if self.average is None else 0.98 * self.average + 0.02 * value


def is_matrix(name: str, parameter: torch.Tensor) -> bool:
    """Whether it maps vectors to vectors. Of a table of tokens or places most rows have no gradient in a step."""
    return parameter.ndim == 2 and not any(part in name for part in ("embed", "table", "lm_head"))
