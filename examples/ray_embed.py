"""Vectors made on several machines by Ray Data, an actor each, into Parquet that an index takes in.

python examples/ray_embed.py /mnt/nas/photos parts --model google/siglip2-base-patch16-naflex --actors 2
mlx_mm index --index photos.mmindex --merge parts

The folder lies at the same place on all machines; s3://… and gs://… are fetched. pip install 'ray[data]'.
"""

import argparse
import os

import ray

from mlx_mm.search.embedder import Embedder
from mlx_mm.search.scanning import scan

parser = argparse.ArgumentParser(description="Embed a folder or a bucket with Ray Data.")
parser.add_argument("source", help="a folder, or the address of an object store")
parser.add_argument("out", help="a folder for Parquet")
parser.add_argument("--model", default="emoji-siglip2")
parser.add_argument("--actors", type=int, default=1, help="how many, one a machine")
args = parser.parse_args()
if "://" in args.source:
    root, files = args.source, ray.data.read_binary_files(args.source, include_paths=True)
else:
    root = os.path.abspath(args.source)
    found = scan(os.fsencode(root), (), videos=False, seen=set()).files  # as a refresh does
    files = ray.data.from_items([{"path": os.path.join(os.fsencode(root), name)} for name in found])
actors = ray.data.ActorPoolStrategy(size=args.actors)
# Actors keep no whole CPU: where they had all, nothing could be read or written.
options = {"batch_size": 64, "compute": actors, "num_cpus": 0.5, "scheduling_strategy": "SPREAD"}
blocks = files.repartition(8 * args.actors)  # of one block an actor would make all
blocks.map_batches(Embedder, fn_constructor_args=(args.model, root), **options).write_parquet(os.path.abspath(args.out))
