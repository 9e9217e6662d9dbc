"""Train the bundled chat model from nothing: the vision tower alone, then the whole model on conversations."""

import argparse
import os
from pathlib import Path

import numpy as np
import torch
from glm_chat import RATE, start_from_names, tokenizer_of, train_chat
from glm_concepts import chat_concepts
from glm_model import Chat, Vision
from glm_scenes import Sprites
from glm_tokenizer import VOCABULARY
from glm_vision import measure_vision, start_from_patches, train_vision
from tokenizers import Tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--artwork", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, nargs=2, default=(15, 50), help="of the two stages")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rate", type=float, default=RATE, help="of the second stage")
    parser.add_argument("--resume", action="store_true", help="go on from the conversations learnt so far")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    concepts = chat_concepts()
    sprites = Sprites(concepts, options.artwork)
    print(f"{len(concepts)} emoji, {sum(map(len, sprites.pictures))} pictures", flush=True)

    vision, stored = Vision(), options.out / "vision.pt"
    if known := stored.exists():
        vision.load_state_dict(torch.load(stored))
    else:
        start_from_patches(vision, sprites, rng)
    if options.minutes[0]:
        save = lambda: torch.save(vision.state_dict(), stored)  # noqa: E731
        train_vision(vision, sprites, options.minutes[0], rng, save, 0.5 if known else 0.0)
        save()
    print(measure_vision(vision, sprites), flush=True)

    tokens = options.out / "tokenizer.json"
    if not tokens.exists():
        tokenizer_of(sprites).save(str(tokens), pretty=False)
    tokenizer, model = Tokenizer.from_file(str(tokens)), Chat(VOCABULARY)
    if options.resume:
        model.load_state_dict(torch.load(options.out / "average.pt"))
    else:
        start_from_names(model, vision, sprites, tokenizer)
    train_chat(model, sprites, tokenizer, options.minutes[1], options.seed, options.out, options.rate)


if __name__ == "__main__":
    main()
