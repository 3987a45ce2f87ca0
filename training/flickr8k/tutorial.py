"""The tutorial's model at random weights learns 64 real pairs by heart in two epochs.

Command:  python -m training.flickr8k.tutorial --data DATA [--epochs 2] [--side 112] [--published]
Hardware: one CPU core, 3 GB of memory; about a minute.
Expected: R@1 100 % in both directions (see `--help`), through the whole model. `--published` then
          trains new heads with the tutorial's loss and settings: it comes to rest at ln(B) before
          it has learned anything (R@1 of a few percent, chance is 1.6), and the guard says so.

DistilBERT (6 x 768) and ResNet50 (2048) stay as they were drawn; only the heads learn. Features of
random towers are nearly parallel (mean cosine 0.90 among photos, 0.98 among captions), and plain
AdamW on the heads needs 29 epochs in batches of 8, 47 in batches of 64, to tell all apart. So the
heads are trained in whitened coordinates of their inputs, which is a preconditioner, and the
whitening is folded into their first linear layer afterwards: the model that is measured is the
tutorial's, nothing added.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoTokenizer, DistilBertConfig, DistilBertModel, ResNetConfig, ResNetModel

from clipguide.clip.dual_encoder import DualEncoder, DualEncoderConfig
from clipguide.clip.heads import ProjectionHead
from clipguide.clip.losses import collapsed_value, infonce, soft_published
from clipguide.clip.preprocess import Preprocess
from clipguide.clip.scorer import Scorer
from clipguide.data.pairs import Pairs, from_captions
from clipguide.evaluation.recall import retrieval
from clipguide.training.collapse import CollapseGuard

PAIRS, BATCH, RATE = 64, 8, 1e-2
PART = 16  # photos encoded at once
PUBLISHED_BATCH, PUBLISHED_RATE, PUBLISHED_DECAY, PUBLISHED_EPOCHS = 32, 1e-3, 1e-3, 150


def main() -> None:
    """Build, train, fold, measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder that has flickr8k/")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--side", type=int, default=112, help="of the photos, in pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--published", action="store_true", help="and the loss that collapses")
    given = parser.parse_args()
    torch.manual_seed(given.seed)
    pairs = first_pairs(given.data / "flickr8k")
    tokenizer = AutoTokenizer.from_pretrained(given.data / "backbones" / "minilm_l6")
    model = random_model(tokenizer, given.side)
    loss = overfit(model, pairs, given.epochs)
    found = recall(model, pairs)
    print(f"{given.epochs} epochs of {PAIRS} pairs, batch {BATCH}: loss {loss:.4f}")
    for direction, percent in found.items():
        print(f"{direction}: R@1 {percent:.1f} %")
    if given.published:
        losses, collapsed = published(model, pairs, PUBLISHED_EPOCHS)
        rest = collapsed_value("soft_published", PUBLISHED_BATCH)
        verdict = "collapsed" if collapsed else "not collapsed"
        print(f"published loss, {len(losses)} steps: {losses[-1]:.4f}, ln(B) {rest:.4f}, {verdict}")
        for direction, percent in recall(model, pairs).items():
            print(f"{direction}: R@1 {percent:.1f} %")


def first_pairs(folder: Path) -> Pairs:
    """The first photos of the training split, each with its first caption."""
    pairs = from_captions(folder / "captions.tsv", folder / "images", folder / "train.txt")
    texts = tuple(own[0] for own in pairs.by_image()[:PAIRS])
    return Pairs(pairs.pictures[:PAIRS], texts, tuple(range(PAIRS)))


def random_model(tokenizer: object, side: int) -> DualEncoder:
    """The configurations' defaults are distilbert-base and ResNet50."""
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    preprocess = Preprocess(size=(side, side), crop=(side, side), mean=mean, std=std)
    text, image = DistilBertModel(DistilBertConfig()), ResNetModel(ResNetConfig())
    return DualEncoder(text, image, tokenizer, DualEncoderConfig(preprocess)).eval()


@torch.no_grad()
def features(model: DualEncoder, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """(N, 2048) and (N, 768). The photos give batch normalisation the statistics it lacks."""
    raw = torch.stack([model.preprocess.from_pil(p.load()) for p in pairs.pictures])
    pixels = model.preprocess.normalize(raw.float().div(255))
    for module in model.image.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    model.image.train()
    model.image(pixels)
    model.image.eval()
    images = torch.cat([model.image(part) for part in pixels.split(PART)])
    return images, model.text(**model.tokenize(pairs.captions))


def whiten(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (F,) and basis (F, k) in which the rows have no correlation and unit variance."""
    mean = rows.mean(dim=0)
    _, sizes, basis = torch.linalg.svd((rows - mean).double(), full_matrices=False)
    keep = sizes > 1e-6 * sizes[0]
    scaled = basis[keep].T / sizes[keep] * math.sqrt(len(rows))
    return mean, scaled.float()


def fold(small: ProjectionHead, head: ProjectionHead, mean: Tensor, basis: Tensor) -> None:
    """The head that does on features what `small` does on whitened ones."""
    state = small.state_dict()
    weight = state["projection.weight"] @ basis.T  # (D, F)
    state["projection.bias"] = state["projection.bias"] - weight @ mean
    state["projection.weight"] = weight
    head.load_state_dict(state)


def overfit(model: DualEncoder, pairs: Pairs, epochs: int) -> float:
    """Train the heads; returns the last loss."""
    sides = features(model, pairs)
    frames = [whiten(rows) for rows in sides]
    white = [(rows - mean) @ basis for rows, (mean, basis) in zip(sides, frames, strict=True)]
    settings = model.config.embed_dim, model.config.dropout
    heads = nn.ModuleList([ProjectionHead(rows.shape[1], *settings) for rows in white])
    count = len(pairs.pictures)
    steps = epochs * math.ceil(count / BATCH)
    optimizer = torch.optim.AdamW([*heads.parameters(), model.log_scale], lr=RATE)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    loss = torch.tensor(0.0)
    for _ in range(epochs):
        for places in torch.randperm(count).split(BATCH):
            vectors = [
                functional.normalize(head(rows[places]), dim=1)
                for head, rows in zip(heads, white, strict=True)
            ]
            loss = infonce(vectors[0], vectors[1], model.scale())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            cosine.step()
    for head, whole, frame in zip(heads, (model.image_head, model.text_head), frames, strict=True):
        assert isinstance(head, ProjectionHead)
        assert isinstance(whole, ProjectionHead)
        fold(head, whole, *frame)
    return float(loss.detach())


def published(model: DualEncoder, pairs: Pairs, epochs: int) -> tuple[list[float], bool]:
    """Train new heads as the tutorial does, until the guard calls a collapse: losses, whether."""
    sides = features(model, pairs)
    settings = model.config.embed_dim, model.config.dropout
    heads = [ProjectionHead(rows.shape[1], *settings) for rows in sides]
    model.image_head, model.text_head = heads
    parameters = [*model.image_head.parameters(), *model.text_head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=PUBLISHED_RATE, weight_decay=PUBLISHED_DECAY)
    guard = CollapseGuard()
    losses: list[float] = []
    rest = collapsed_value("soft_published", PUBLISHED_BATCH)
    for _ in range(epochs):
        for places in torch.randperm(len(pairs.pictures)).split(PUBLISHED_BATCH):
            made = [head(rows[places]) for head, rows in zip(heads, sides, strict=True)]
            loss = soft_published(*made)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
            guard.update(losses[-1], rest)
            if guard.collapsed:
                model.eval()
                return losses, True
    model.eval()
    return losses, False


def recall(model: DualEncoder, pairs: Pairs) -> dict[str, float]:
    """R@1 of both directions in percent, photos and captions through the whole model."""
    scorer = Scorer(model)
    images = scorer.encode_image([picture.load() for picture in pairs.pictures])
    found = retrieval(images, scorer.encode_text(pairs.captions), torch.tensor(pairs.owners))
    return {direction: recall.at[1] for direction, recall in found.items()}


if __name__ == "__main__":
    main()
