"""Hostile and damaged inputs of every kind, made from a seed, and what becomes of each.

`mutation` spoils bytes, texts and JSON; the modules of `kinds` make inputs and try them; `outcome` says what one trial
came to; `workers` run many of them in processes that may hang or die. `benchmarks/fuzz.py` runs ten thousand.
"""
