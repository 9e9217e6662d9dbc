"""Train the bundled checkpoint: a small SigLIP 2 NaFlex model that knows emoji in 13 languages.

Three stages, because the pair-wise sigmoid hardly moves from random towers:

1. *words*: the text tower learns which words mean the same concept, against one free vector per concept;
2. *pictures*: the vision tower learns to meet the same vectors, while the text tower goes on;
3. *together*: both towers under SigLIP's own pair-wise sigmoid, with weights rounded to 4 bits in the forward
   pass, so that the quantised model loses little; the loss also teaches scale and bias.

Run by hand (README.md here); it needs torch and transformers, which the package itself never imports.
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from captions import TEXT_LENGTH, Captions, learn_vocabulary
from concepts import load_concepts
from quantised import rounded_weights
from release import write_folder
from stage import Stage
from towers import (
    TEMPERATURE,
    WIDTH,
    build_model,
    image_vectors,
    start_from_patch_statistics,
    start_from_word_counts,
    text_vectors,
)
from transformers import Siglip2Model
from views import PicturePool, choose_grid, random_views, to_patches


def learn_words(model: Siglip2Model, captions: Captions, minutes: float, rng: np.random.Generator) -> torch.Tensor:
    """Fit the text tower to one free vector per concept, and return those vectors."""
    count = len(captions.words)
    anchors = torch.nn.Embedding.from_pretrained(F.normalize(torch.randn(count, WIDTH), dim=-1), freeze=False)
    start_from_word_counts(model, captions, anchors.weight.detach())
    stage = Stage("words", minutes, [model.text_model, torch.nn.ModuleDict({"embedding": anchors})], 1.5e-3)
    for _ in stage:
        stage.descend(word_loss(model, captions, anchors.weight, rng))
    return anchors.weight.detach()


def word_loss(model: Siglip2Model, captions: Captions, anchors: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    concepts = rng.integers(len(anchors), size=128)
    ids, _ = captions.draw(concepts, rng)
    logits = TEMPERATURE * text_vectors(model, ids) @ F.normalize(anchors, dim=-1).T
    return F.cross_entropy(logits, torch.from_numpy(concepts))


def learn_pictures(
    model: Siglip2Model,
    anchors: torch.Tensor,
    captions: Captions,
    pool: PicturePool,
    minutes: float,
    rng: np.random.Generator,
    save: Callable[[], None],
) -> None:
    """Fit the vision tower to the same vectors, while the text tower goes on with its words."""
    start_from_patch_statistics(model, pool, rng)
    anchors = torch.nn.Embedding.from_pretrained(anchors, freeze=False)
    modules = [model.vision_model, model.text_model, torch.nn.ModuleDict({"embedding": anchors})]
    stage = Stage("pictures", minutes, modules, 1.5e-3, save)
    for progress in stage:
        concepts = torch.from_numpy(rng.permutation(len(pool.members))[:192])
        grid = choose_grid(rng, progress)
        views = random_views(pool.pixels[pool.choose(concepts)], grid, strength=min(1.0, 0.2 + 1.5 * progress))
        vectors = image_vectors(model, to_patches(views, grid), grid)
        # At full temperature the untrained tower would first learn to answer every picture with one mean vector,
        # which is the safest answer there, and hardly leaves that plateau.
        temperature = TEMPERATURE * (0.27 + 0.4 * progress)
        logits = temperature * vectors @ F.normalize(anchors.weight, dim=-1).T
        stage.descend(F.cross_entropy(logits, concepts) + word_loss(model, captions, anchors.weight, rng))


def learn_together(
    model: Siglip2Model,
    captions: Captions,
    pool: PicturePool,
    minutes: float,
    rng: np.random.Generator,
    save: Callable[[], None],
) -> None:
    count = len(captions.words)
    level = torch.nn.ParameterList([model.logit_scale, model.logit_bias])
    modules = [model.text_model, model.vision_model, level]
    stage = Stage("together", minutes, modules, 6e-4, save)
    for _ in stage:
        concepts = rng.permutation(count)[:192]
        grid = choose_grid(rng, progress=1.0)
        views = random_views(pool.pixels[pool.choose(torch.from_numpy(concepts))], grid, strength=1.0)
        ids, truth = captions.draw(concepts, rng)
        truth = truth[:, concepts]
        with rounded_weights(model):
            similarity = text_vectors(model, ids) @ image_vectors(model, to_patches(views, grid), grid).T
        logits = similarity * model.logit_scale.exp() + model.logit_bias
        pairs = F.binary_cross_entropy_with_logits(logits, truth, reduction="sum") / len(concepts)
        # The softmax keeps the ranking sharp while the sigmoid settles the level.
        ranking = TEMPERATURE * similarity
        share = truth / truth.sum(1, keepdim=True)
        contrast = F.cross_entropy(ranking, share) + F.cross_entropy(ranking.T, (truth / truth.sum(0)).T)
        stage.descend(pairs + contrast)
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(TEMPERATURE))


def calibrate(model: Siglip2Model, captions: Captions, pool: PicturePool, rng: np.random.Generator) -> None:
    """Fit scale and bias alone on fresh pairs of all concepts: the towers no longer move under them."""
    count, batches = len(captions.words), []
    with torch.no_grad():
        for _ in range(12):
            concepts = rng.permutation(count)
            grid = choose_grid(rng, progress=1.0)
            views = random_views(pool.pixels[pool.choose(torch.from_numpy(concepts))], grid, strength=0.7)
            ids, truth = captions.draw(concepts, rng)
            images = image_vectors(model, to_patches(views, grid), grid)
            batches.append((text_vectors(model, ids) @ images.T, truth[:, concepts]))
    similarity, truth = (torch.stack(parts) for parts in zip(*batches, strict=True))
    scale, bias = model.logit_scale, model.logit_bias
    optimizer = torch.optim.LBFGS([scale, bias], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(similarity * scale.exp() + bias, truth)
        loss.backward()
        return loss

    optimizer.step(closure)
    print(f"calibrated: scale exp({scale.item():.3f}) = {scale.exp().item():.1f}, bias {bias.item():.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--artwork", type=Path, default=Path("artwork"), help="folder of unpacked icon packages")
    parser.add_argument("--out", type=Path, default=Path("emoji-siglip2"), help="folder to write")
    parser.add_argument("--minutes", type=float, nargs=3, default=(5, 30, 20), help="of the three stages")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)

    concepts, model = load_concepts(), build_model()
    tokenizer = learn_vocabulary(concepts)
    captions, pool = Captions(concepts, tokenizer), PicturePool(concepts, options.artwork)
    print(f"{len(concepts)} concepts, {len(pool.labels)} pictures, {model.num_parameters():,} parameters", flush=True)

    def save() -> None:
        write_folder(model, tokenizer, options.out, TEXT_LENGTH)

    words, pictures, together = options.minutes
    anchors = learn_words(model, captions, words, rng)
    learn_pictures(model, anchors, captions, pool, pictures, rng, save)
    learn_together(model, captions, pool, together, rng, save)
    calibrate(model, captions, pool, rng)
    save()


if __name__ == "__main__":
    main()
