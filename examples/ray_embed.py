"""Vectors made on several machines by Ray Data (pip install 'ray[data]'), into Parquet that an index takes in.

python examples/ray_embed.py /mnt/photos parts --actors 2 && mlx_mm index --index photos.mmindex --merge parts
"""

import argparse
import os

import ray

from mlx_mm.search.embedder import Embedder
from mlx_mm.search.scanning import scan

parser = argparse.ArgumentParser(description="Embed a folder or a bucket with Ray Data.")
parser.add_argument("source", help="a folder, at the same place on all machines, or s3://… or gs://…")
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
# Actors take half a CPU in Ray's books, since the rest reads and writes; of one block, one actor would make all.
actors = ray.data.ActorPoolStrategy(size=args.actors)
options = {"batch_size": 64, "compute": actors, "num_cpus": 0.5}
vectors = files.repartition(8 * args.actors).map_batches(Embedder, fn_constructor_args=(args.model, root), **options)
vectors.write_parquet(os.path.abspath(args.out))
