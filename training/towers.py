"""The model: its sizes, its towers as training calls them, and what they start from."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from captions import TEXT_LENGTH, VOCABULARY, Captions
from tokenizer import EOS_ID, PAD_ID, RESERVED_IDS, encode
from transformers import Siglip2Config, Siglip2Model
from views import PicturePool, random_views, to_patches

WIDTH, MLP_WIDTH, HEADS = 128, 512, 4  # both widths divide by 64, the quantisation group
TEMPERATURE = 30.0


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
