"""Train the bundled checkpoint for sounds: a small CLAP model that knows 65 kinds of sound in six languages.

Each sound has a fixed vector of its own, all at right angles; a mixture has the sum of two. Three stages:

1. *words*: the text tower learns to meet those vectors;
2. *sounds*: the audio tower learns to meet them, while the text tower goes on;
3. *carriers*: the text tower alone learns to find a sound's name among words that it does not know.

Run by hand (README.md here); it needs torch and transformers, which the package itself never imports.
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from clap_clips import Clips, features, held_out_mixture, held_out_single
from clap_release import write_folder
from clap_texts import NAMES, Texts, learn_vocabulary
from clap_towers import WIDTH, audio_vectors, build_model, start_from_statistics, text_vectors
from stage import Stage
from tokenizers import Tokenizer
from transformers import ClapModel


def distance(vectors: torch.Tensor, truth: torch.Tensor, anchors: torch.Tensor, scale: float) -> torch.Tensor:
    """How far vectors (B, WIDTH) are from the sums of the anchors that truth (B, sounds) names."""
    known = truth.max(dim=1).values > 0.1  # a text about no sound has no vector, only no preference
    targets = F.normalize(truth @ anchors, dim=-1)
    apart = 1 - (vectors * targets).sum(1)
    return F.cross_entropy(scale * vectors @ anchors.T, truth) + 2 * apart[known].mean()


def learn_texts(
    model: ClapModel,
    texts: Texts,
    anchors: torch.Tensor,
    stage: Stage,
    scales: tuple[float, float],
    rng: np.random.Generator,
) -> None:
    """The text tower alone. scales: of the products with the anchors, at first and at last."""
    for progress in stage:
        ids, mask, truth = texts.draw(96, rng)
        scale = np.interp(progress, (0, 1), scales)
        stage.descend(distance(text_vectors(model, ids, mask), truth, anchors, scale))


def learn_sounds(
    model: ClapModel,
    clips: Clips,
    texts: Texts,
    anchors: torch.Tensor,
    minutes: float,
    rate: float,
    mixed: tuple[float, float],
    bfloat16: bool,
    rng: np.random.Generator,
    save,
) -> None:
    modules = [model.audio_model, model.audio_projection, model.text_model, model.text_projection]
    stage = Stage("sounds", minutes, modules, rate, save)
    for progress in stage:
        sounds, truth = clips.draw(64, np.interp(progress, (0, 0.4), mixed), rng)
        ids, mask, said = texts.draw(48, rng)
        scale = 8 + 12 * progress
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            vectors = audio_vectors(model, sounds)
        heard = distance(vectors.float(), truth, anchors, scale)
        stage.descend(heard + distance(text_vectors(model, ids, mask), said, anchors, scale))


class HeldOut:
    """Real waves with parameters and pairs that training never sees, as features."""

    def __init__(self, each: int, mixtures: int):
        self.truth = np.repeat(np.arange(len(NAMES)), each)
        self.singles = torch.from_numpy(
            np.stack([features(held_out_single(sound, 1000 + k)) for k, sound in enumerate(self.truth)])
        )
        waves, self.pairs = zip(*(held_out_mixture(1000 + k, True) for k in range(mixtures)), strict=True)
        self.mixtures = torch.from_numpy(np.stack([features(wave) for wave in waves]))

    def report(self, model: ClapModel, anchors: torch.Tensor) -> str:
        with torch.no_grad():
            ranks = [
                torch.cat([audio_vectors(model, part) for part in clips.split(32)]) @ anchors.T
                for clips in (self.singles, self.mixtures)
            ]
        right = ranks[0].argmax(1).numpy() == self.truth
        best = [set(row) for row in ranks[1].topk(5).indices.tolist()]
        both = np.mean([set(pair) <= found for pair, found in zip(self.pairs, best, strict=True)])
        worst = sorted((right[self.truth == n].mean(), name) for n, name in enumerate(NAMES))[:8]
        weak = " ".join(f"{name} {share:.0%}" for share, name in worst)
        return f"held out: top-1 {right.mean():.1%}, both of a mixture in five {both:.1%}; weakest: {weak}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=Path, default=Path("clips.npz"), help="file of spectrograms, made if missing")
    parser.add_argument("--each", type=int, default=100, help="clips of each sound in that file")
    parser.add_argument("--start", type=Path, help="folder of an earlier run to go on from")
    parser.add_argument("--out", type=Path, default=Path("sounds-clap"), help="folder to write")
    parser.add_argument("--minutes", type=float, nargs=3, default=(2, 45, 4), help="of the three stages")
    parser.add_argument("--rate", type=float, default=1.5e-3, help="learning rate of the second stage")
    parser.add_argument("--mixed", type=float, nargs=2, default=(0.1, 0.5), help="share of mixtures, first and last")
    parser.add_argument("--bfloat16", action="store_true", help="twice as fast where the CPU has AVX-512 BF16 or AMX")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    anchors = torch.linalg.qr(torch.randn(WIDTH, len(NAMES)))[0].T.contiguous()
    torch.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)

    began = time.monotonic()
    clips, held_out = Clips.of(options.clips, options.each, options.seed), HeldOut(each=4, mixtures=128)
    if options.start is None:
        tokenizer, model = learn_vocabulary(), build_model()
        start_from_statistics(model, clips.draw(256, 0.3, rng)[0])
    else:
        tokenizer = Tokenizer.from_file(str(options.start / "tokenizer.json"))
        model = ClapModel.from_pretrained(options.start, dtype=torch.float32, attn_implementation="eager")
    texts = Texts(tokenizer)
    model.eval()  # its batch norm keeps the statistics it starts from
    print(f"{len(NAMES)} sounds, {len(clips.sounds)} clips, {model.num_parameters():,} parameters", flush=True)

    def save() -> None:
        write_folder(model, tokenizer, options.out)
        print(f"{(time.monotonic() - began) / 60:.1f} min {held_out.report(model, anchors)}", flush=True)

    words, sounds, carriers = options.minutes
    with torch.no_grad():
        for scale in (model.logit_scale_a, model.logit_scale_t):
            scale.fill_(math.log(20))
    tower = [model.text_model, model.text_projection]
    learn_texts(model, texts, anchors, Stage("words", words, tower, 1.5e-3), (8, 20), rng)
    learn_sounds(model, clips, texts, anchors, sounds, options.rate, options.mixed, options.bfloat16, rng, save)
    learn_texts(model, Texts(tokenizer, carried=0.7), anchors, Stage("carriers", carriers, tower, 1e-3), (20, 20), rng)
    save()


if __name__ == "__main__":
    main()
