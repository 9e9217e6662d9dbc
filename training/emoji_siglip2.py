"""Train the bundled checkpoint: a small SigLIP 2 NaFlex model that knows emoji in 13 languages.

Three stages, because the pair-wise sigmoid hardly moves from random towers:

1. *words*: the text tower learns which words mean the same concept, against one free vector per concept;
2. *pictures*: the vision tower learns to meet real name vectors, one of a random language per concept and step;
3. *together*: both towers under SigLIP's own pair-wise sigmoid, with weights rounded to 4 bits in the forward
   pass, so that the quantised model loses little; the loss also teaches scale and bias.

Run by hand (README.md here); it needs torch and transformers, which the package itself never imports.
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from concepts import FAMILY_TEMPLATE, LANGUAGES, TEMPLATES, Concept, is_held_out, load_concepts
from muon import Muon
from quantised import rounded_weights
from release import write_folder
from tokenizer import EOS_ID, PAD_ID, RESERVED_IDS, encode, train_tokenizer, with_dropout
from tokenizers import Tokenizer
from transformers import Siglip2Config, Siglip2Model
from views import PicturePool, choose_grid, random_views, to_patches

TEXT_LENGTH = 16  # holds the family template around 99 % of the names
VOCABULARY = 8192
WIDTH, MLP_WIDTH, HEADS = 128, 512, 4  # all divide by 64, the quantisation group
TEMPERATURE = 30.0
MATRIX_RATE = 2.0  # Muon's rate in units of AdamW's
SAVE_SECONDS = 300  # a long run that is interrupted should leave something


class Captions:
    """All training words of all (concept, language) pairs that are not held out."""

    def __init__(self, concepts: list[Concept], tokenizer: Tokenizer):
        self.words = [
            {lang: (c.names[lang], *c.keywords[lang]) for lang in LANGUAGES if not is_held_out(c, lang)}
            for c in concepts
        ]
        self.tokenizer = tokenizer
        self.spelling = with_dropout(tokenizer, 0.1)
        users: dict[tuple[str, str], list[int]] = {}
        for number, by_language in enumerate(self.words):
            for language, words in by_language.items():
                for word in words:
                    users.setdefault((language, word.lower()), []).append(number)
        self.users = users

    def draw(self, concepts: np.ndarray, rng: np.random.Generator) -> tuple[torch.Tensor, list[list[int]]]:
        """One caption for each concept -> (ids, all concepts each caption is true of)."""
        texts, meanings = [], []
        for number in concepts:
            languages = self.words[number]
            language = "en" if rng.random() < 0.12 else tuple(languages)[rng.integers(len(languages))]
            words = languages[language]
            # The short name is as frequent as all keywords together.
            word = words[0] if len(words) == 1 or rng.random() < 0.5 else words[rng.integers(1, len(words))]
            texts.append(caption(word, language, rng))
            meanings.append(self.users[language, word.lower()])
        tokenizer = self.spelling if rng.random() < 0.5 else self.tokenizer
        return torch.tensor(encode(tokenizer, texts, TEXT_LENGTH)), meanings

    def plain_names(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Every seen short name, bare and in the family template -> (ids, concept numbers)."""
        pairs = [(words[0], n) for n, languages in enumerate(self.words) for words in languages.values()]
        texts = [word for word, _ in pairs] + [FAMILY_TEMPLATE.format(word) for word, _ in pairs]
        numbers = [number for _, number in pairs] * 2
        return torch.tensor(encode(self.tokenizer, texts, TEXT_LENGTH)), torch.tensor(numbers)


def caption(word: str, language: str, rng: np.random.Generator) -> str:
    chance = rng.random()
    if chance < 0.5:
        return word
    if chance < 0.7:
        return FAMILY_TEMPLATE.format(word)
    templates = TEMPLATES[language if chance < 0.95 else "en"]
    return templates[rng.integers(len(templates))].format(word)


def learn_vocabulary(concepts: list[Concept]) -> Tokenizer:
    words = [
        word
        for c in concepts
        for lang in LANGUAGES
        if not is_held_out(c, lang)
        for word in (*[c.names[lang]] * 3, *c.keywords[lang])
    ]
    # Words occur at the start of a text and, after a space, inside a template: two different pieces.
    frames = [t.format("") for lang in LANGUAGES for t in (*TEMPLATES[lang], FAMILY_TEMPLATE)] * 60
    return train_tokenizer(words + [f" {word}" for word in words] + frames, VOCABULARY)


def build_model() -> Siglip2Model:
    tower = {
        "hidden_size": WIDTH,
        "intermediate_size": MLP_WIDTH,
        "num_attention_heads": HEADS,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6,
        "attention_dropout": 0.0,
    }
    text = {
        **tower,
        "num_hidden_layers": 3,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": TEXT_LENGTH,
        "projection_size": WIDTH,
        "pad_token_id": PAD_ID,
        "eos_token_id": EOS_ID,
        "bos_token_id": 2,
    }
    vision = {**tower, "num_hidden_layers": 4, "num_channels": 3, "patch_size": 16, "num_patches": 36}
    # torch's fused attention is several times slower than the written-out one at these sizes on a CPU.
    config = Siglip2Config(text_config=text, vision_config=vision, attn_implementation="eager")
    model = Siglip2Model(config)
    with torch.no_grad():
        model.logit_scale.fill_(math.log(TEMPERATURE))
        model.logit_bias.fill_(-TEMPERATURE / 2)
    return model


def text_vectors(model: Siglip2Model, ids: torch.Tensor) -> torch.Tensor:
    return F.normalize(model.text_model(input_ids=ids).pooler_output, dim=-1)


def image_vectors(model: Siglip2Model, patches: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """The vision tower for a batch of one grid: resizes the position table once instead of once per picture."""
    tower = model.vision_model
    table = tower.embeddings.position_embedding.weight.reshape(6, 6, -1).permute(2, 0, 1)[None]
    positions = F.interpolate(table, size=grid, mode="bilinear", antialias=True, align_corners=False)
    hidden = tower.embeddings.patch_embedding(patches) + positions.flatten(2).transpose(1, 2)
    hidden = tower.encoder(inputs_embeds=hidden).last_hidden_state
    return F.normalize(tower.head(tower.post_layernorm(hidden)), dim=-1)


def start_from_word_counts(model: Siglip2Model, captions: Captions, anchors: torch.Tensor) -> None:
    """Make the untrained text tower roughly average its tokens, each token pointing at the concepts it occurs with.

    A token of one concept starts as that concept's anchor, a token of all ("photo") near zero. From random
    embeddings the same accuracy takes several times as many steps.
    """
    counts = torch.zeros(VOCABULARY, len(anchors))
    for number, languages in enumerate(captions.words):
        words = [word for group in languages.values() for word in group]
        ids = encode(captions.tokenizer, words + [f" {word}" for word in words], TEXT_LENGTH)
        counts[:, number] += torch.bincount(torch.tensor(ids).flatten(), minlength=VOCABULARY)
    counts[:RESERVED_IDS] = 0
    seen = counts.sum(1) > 0
    share = counts[seen] / counts[seen].sum(1, keepdim=True)
    tower = model.text_model
    with torch.no_grad():
        tower.embeddings.token_embedding.weight[seen] = share @ anchors + 0.02 * torch.randn(len(share), WIDTH)
        tower.embeddings.token_embedding.weight[:RESERVED_IDS] *= 0.3
        tower.embeddings.position_embedding.weight.mul_(0.3)
        for layer in (tower.encoder.layers[0].self_attn.v_proj, tower.encoder.layers[0].self_attn.out_proj):
            layer.weight.copy_(torch.eye(WIDTH))
        tower.head.weight.copy_(torch.eye(WIDTH))
        tower.head.bias.zero_()


class Schedule:
    """Steps until the stage's minutes are over; the rate warms up, then falls to zero along a cosine."""

    def __init__(self, name: str, minutes: float, modules: list[torch.nn.Module], rate: float, save=None):
        self.name, self.seconds, self.save = name, minutes * 60, save
        named = [item for module in modules for item in module.named_parameters()]
        matrices = [p for name, p in named if p.ndim == 2 and "embedding" not in name]
        others = [p for name, p in named if p.ndim != 2 or "embedding" in name]
        self.parameters = [*matrices, *others]
        self.optimizers = [torch.optim.AdamW(others, lr=rate, weight_decay=0.02, betas=(0.9, 0.98))]
        if matrices:
            self.optimizers.append(Muon(matrices, lr=MATRIX_RATE * rate, weight_decay=0.02))
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


def learn_words(model: Siglip2Model, captions: Captions, minutes: float, rng: np.random.Generator) -> torch.Tensor:
    """Fit the text tower to one free vector per concept, and return those vectors."""
    count = len(captions.words)
    anchors = torch.nn.Embedding.from_pretrained(F.normalize(torch.randn(count, WIDTH), dim=-1), freeze=False)
    start_from_word_counts(model, captions, anchors.weight.detach())
    schedule = Schedule("words", minutes, [model.text_model, torch.nn.ModuleDict({"embedding": anchors})], 1.5e-3)
    for _ in schedule:
        schedule.descend(word_loss(model, captions, anchors.weight, rng))
    return anchors.weight.detach()


def word_loss(
    model: Siglip2Model, captions: Captions, anchors: torch.Tensor, rng: np.random.Generator
) -> torch.Tensor:
    concepts = rng.integers(len(anchors), size=128)
    ids, _ = captions.draw(concepts, rng)
    logits = TEMPERATURE * text_vectors(model, ids) @ F.normalize(anchors, dim=-1).T
    return F.cross_entropy(logits, torch.from_numpy(concepts))


def start_from_patch_statistics(model: Siglip2Model, pool: PicturePool, rng: np.random.Generator) -> None:
    """Patch embedding: the principal components of patches, equally strong; positions: waves of rows and columns.

    Random projections would show the tower little but the mean colour, which carries most of the variance.
    """
    concepts = torch.from_numpy(rng.integers(len(pool.members), size=1024))
    patches = to_patches(random_views(pool.pixels[pool.choose(concepts)], (4, 4), strength=0.3), (4, 4)).flatten(0, 1)
    mean = patches.mean(0)
    variance, directions = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
    directions, variance = directions[:, -WIDTH:], variance[-WIDTH:]
    mixing = torch.linalg.qr(torch.randn(WIDTH, WIDTH))[0]  # so that no channel is special
    projection = mixing @ (directions / (variance + 0.1).sqrt()).T
    side = torch.arange(6.0)
    waves = side[:, None] * torch.linspace(0.05, 1.5, WIDTH // 4)
    waves = torch.cat([waves.sin(), waves.cos()], dim=1)
    table = torch.cat([waves[:, None].expand(6, 6, -1), waves[None].expand(6, 6, -1)], dim=2).reshape(36, WIDTH)
    embeddings = model.vision_model.embeddings
    with torch.no_grad():
        embeddings.patch_embedding.weight.copy_(projection)
        embeddings.patch_embedding.bias.copy_(-projection @ mean)
        embeddings.position_embedding.weight.copy_(0.5 * table @ torch.linalg.qr(torch.randn(WIDTH, WIDTH))[0])


def learn_pictures(
    model: Siglip2Model,
    anchors: torch.Tensor,
    captions: Captions,
    pool: PicturePool,
    minutes: float,
    rng: np.random.Generator,
    save,
) -> None:
    """Fit the vision tower to the same vectors, while the text tower goes on with its words."""
    start_from_patch_statistics(model, pool, rng)
    anchors = torch.nn.Embedding.from_pretrained(anchors, freeze=False)
    modules = [model.vision_model, model.text_model, torch.nn.ModuleDict({"embedding": anchors})]
    schedule = Schedule("pictures", minutes, modules, 1.5e-3, save)
    for progress in schedule:
        concepts = torch.from_numpy(rng.permutation(len(pool.members))[:192])
        grid = choose_grid(rng, progress)
        views = random_views(pool.pixels[pool.choose(concepts)], grid, strength=min(1.0, 0.2 + 1.5 * progress))
        vectors = image_vectors(model, to_patches(views, grid), grid)
        # At full temperature the untrained tower would first learn to answer every picture with one mean vector,
        # which is the safest answer there, and hardly leaves that plateau.
        temperature = TEMPERATURE * (0.27 + 0.4 * progress)
        logits = temperature * vectors @ F.normalize(anchors.weight, dim=-1).T
        schedule.descend(F.cross_entropy(logits, concepts) + word_loss(model, captions, anchors.weight, rng))


def learn_together(
    model: Siglip2Model, captions: Captions, pool: PicturePool, minutes: float, rng: np.random.Generator, save
) -> None:
    count = len(captions.words)
    level = torch.nn.ParameterList([model.logit_scale, model.logit_bias])
    modules = [model.text_model, model.vision_model, level]
    schedule = Schedule("together", minutes, modules, 6e-4, save)
    for _ in schedule:
        concepts = rng.permutation(count)[:192]
        grid = choose_grid(rng, progress=1.0)
        views = random_views(pool.pixels[pool.choose(torch.from_numpy(concepts))], grid, strength=1.0)
        ids, meanings = captions.draw(concepts, rng)
        truth = torch.zeros(len(concepts), count)
        for row, true_of in enumerate(meanings):
            truth[row, true_of] = 1
        truth = truth[:, concepts]
        with rounded_weights(model):
            similarity = text_vectors(model, ids) @ image_vectors(model, to_patches(views, grid), grid).T
        logits = similarity * model.logit_scale.exp() + model.logit_bias
        pairs = F.binary_cross_entropy_with_logits(logits, truth, reduction="sum") / len(concepts)
        # The softmax keeps the ranking sharp while the sigmoid settles the level.
        ranking = TEMPERATURE * similarity
        share = truth / truth.sum(1, keepdim=True)
        contrast = F.cross_entropy(ranking, share) + F.cross_entropy(ranking.T, (truth / truth.sum(0)).T)
        schedule.descend(pairs + contrast)
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
            ids, meanings = captions.draw(concepts, rng)
            truth = torch.zeros(count, count)
            for row, true_of in enumerate(meanings):
                truth[row, true_of] = 1
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
    parser.add_argument("--minutes", type=float, nargs=3, default=(5, 25, 12), help="of the three stages")
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
