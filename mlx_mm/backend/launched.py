"""Whether a launcher such as `mlx.launch` started this process with others, and which of them it is."""

import os

import mlx.core as mx

# Of those that `mx.distributed.init` knows: the ring and JACCL of mlx.launch, Open MPI, MPICH
VARIABLES = ("MLX_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK")


def is_launched() -> bool:
    """By what a launcher puts into the environment."""
    return any(name in os.environ for name in VARIABLES)


def rank_and_size() -> tuple[int, int]:
    """Which process this is, from 0, and of how many; waits for the others. (0, 1) of one alone."""
    if not is_launched():
        return 0, 1
    group = mx.distributed.init()
    return group.rank(), group.size()
