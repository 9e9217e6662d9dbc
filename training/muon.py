"""Muon for the matrices of a small transformer, AdamW for everything else.

Muon replaces the update of each matrix by the nearest one whose singular values are all alike, so that rare
directions learn as fast as common ones. torch ships a Muon too, but it works in bfloat16, which is many times
slower than float32 on a CPU without bfloat16 arithmetic.
"""

import torch

# Quintic iteration whose fixed band around 1 is reached from any small singular value in five rounds
# (coefficients published with Muon by Keller Jordan, 2024).
A, B, C = 3.4445, -4.7750, 2.0315
ROUNDS = 5
MOMENTUM = 0.95


def orthogonalised(update: torch.Tensor) -> torch.Tensor:
    tall = update.shape[0] > update.shape[1]
    matrix = update.T if tall else update
    matrix = matrix / (matrix.norm() + 1e-7)
    for _ in range(ROUNDS):
        gram = matrix @ matrix.T
        matrix = A * matrix + (B * gram + C * gram @ gram) @ matrix
    return matrix.T if tall else matrix


class Muon(torch.optim.Optimizer):
    def __init__(self, params, lr: float, weight_decay: float):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for param in group["params"]:
                momentum = self.state[param].setdefault("momentum", torch.zeros_like(param))
                momentum.lerp_(param.grad, 1 - MOMENTUM)
                update = orthogonalised(param.grad.lerp(momentum, MOMENTUM))
                # The size AdamW's update of such a matrix usually has, so both share one learning rate.
                size = 0.2 * max(param.shape) ** 0.5
                param.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"] * size)
