"""Soft and sigmoid losses, several captions an image, chunked forms, gradient caching."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from clipguide.clip.chunked_losses import chunked_infonce, chunked_sigmoid, chunked_soft
from clipguide.clip.losses import collapsed_value, infonce, sigmoid, soft, soft_published
from clipguide.training.gradient_cache import encode_in_parts

OWNERS = torch.tensor([0, 1, 0, 2, 1, 0, 3])
EXACT = 1e-12


def unit(count: int, dim: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn((count, dim), generator=generator, dtype=torch.float64)
    return functional.normalize(vectors, dim=-1)


def batch(count: int = 7, dim: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images, captions, a learned scale and hard negatives, all with gradient."""
    values = [unit(count, dim, 1), unit(count, dim, 2), unit(3, dim, 3)]
    images, texts, negatives = (value.requires_grad_() for value in values)
    return images, texts, torch.tensor(6.0, dtype=torch.float64, requires_grad=True), negatives


def share(logits: list[float]) -> list[float]:
    top = sum(math.exp(value) for value in logits)
    return [math.exp(value) / top for value in logits]


def crossed(target: list[float], logits: list[float]) -> float:
    return -sum(t * math.log(p) for t, p in zip(target, share(logits), strict=True) if t)


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


# --- against loops -------------------------------------------------------------------------------


def slow(
    target: Callable[[int, int], float], images: Tensor, texts: Tensor, scale: float, wrong: Tensor
) -> float:
    """Both directions of a cross-entropy, one row at a time; wrong captions have target 0."""
    pictures, captions, bad = images.tolist(), texts.tolist(), wrong.tolist()
    count, total = len(pictures), 0.0
    for i in range(count):
        wanted = [target(i, j) for j in range(count)]
        to_text = [scale * dot(pictures[i], other) for other in captions + bad]
        to_image = [scale * dot(captions[i], other) for other in pictures]
        total += crossed(wanted + [0.0] * len(bad), to_text) + crossed(wanted, to_image)
    return total / (2 * count)


def test_captions_of_one_image_share_the_target_of_infonce() -> None:
    images, texts, scale, negatives = batch()
    owners = OWNERS.tolist()

    def target(i: int, j: int) -> float:
        return (owners[i] == owners[j]) / owners.count(owners[i])

    expected = slow(target, images, texts, 6.0, negatives)
    found = infonce(images, texts, scale, negatives, OWNERS)
    assert found.item() == pytest.approx(expected, abs=EXACT)


def test_owners_that_all_differ_change_nothing() -> None:
    images, texts, scale, negatives = batch()
    alone = torch.arange(7)
    for loss in (infonce, soft):
        plain = loss(images, texts, scale, negatives)
        assert loss(images, texts, scale, negatives, alone).item() == pytest.approx(
            plain.item(), abs=EXACT
        )
    plain = sigmoid(images, texts, scale, -2.0, negatives)
    assert sigmoid(images, texts, scale, -2.0, negatives, alone).item() == plain.item()


@pytest.mark.parametrize("merged", [False, True])
def test_soft_is_what_the_loop_says(merged: bool) -> None:
    images, texts, scale, negatives = batch()
    pictures, captions = images.tolist(), texts.tolist()
    owners = OWNERS.tolist() if merged else list(range(7))

    def likeness(i: int, j: int) -> float:
        if owners[i] == owners[j]:
            return 6.0
        return 6.0 * (dot(pictures[i], pictures[j]) + dot(captions[i], captions[j])) / 2

    def target(i: int, j: int) -> float:
        return share([likeness(i, k) for k in range(7)])[j]

    expected = slow(target, images, texts, 6.0, negatives)
    found = soft(images, texts, scale, negatives, OWNERS if merged else None)
    assert found.item() == pytest.approx(expected, abs=EXACT)


def test_the_targets_of_soft_carry_no_gradient() -> None:
    images, texts, scale, _ = batch()
    soft(images, texts, scale).backward()
    with torch.no_grad():
        target = (6.0 * (images @ images.T + texts @ texts.T) / 2).softmax(dim=1)
        logits = 6.0 * images @ texts.T
        pull = (logits.softmax(dim=1) - target) + (logits.T.softmax(dim=1) - target).T
        expected = 6.0 * pull @ texts / 14
    assert torch.allclose(images.grad, expected, atol=EXACT)


@pytest.mark.parametrize("merged", [False, True])
def test_sigmoid_is_what_the_loop_says(merged: bool) -> None:
    images, texts, scale, negatives = batch()
    owners = OWNERS.tolist() if merged else list(range(7))
    captions, total = [*texts.tolist(), *negatives.tolist()], 0.0
    for i, picture in enumerate(images.tolist()):
        for j, caption in enumerate(captions):
            sign = 1 if j < 7 and owners[i] == owners[j] else -1
            total += math.log(1 + math.exp(-sign * (6.0 * dot(picture, caption) - 2.0)))
    found = sigmoid(images, texts, scale, -2.0, negatives, OWNERS if merged else None)
    assert found.item() == pytest.approx(total / 7, abs=EXACT)


def test_the_published_loss_is_the_published_loss() -> None:
    """Spelled out for two pairs of raw vectors, T = 2."""
    images = [[1.0, 0.5], [-0.5, 2.0]]
    texts = [[0.3, 1.0], [1.0, 0.0]]
    likeness = [
        [(dot(images[i], images[j]) + dot(texts[i], texts[j])) / 2 * 2.0 for j in range(2)]
        for i in range(2)
    ]
    targets = [share(row) for row in likeness]
    logits = [[dot(text, image) / 2.0 for image in images] for text in texts]
    total = 0.0
    for i in range(2):
        total += crossed(targets[i], logits[i]) / 2
        turned = [targets[0][i], targets[1][i]]  # a column, which need not sum to 1
        total += crossed(turned, [logits[0][i], logits[1][i]]) / 2
    found = soft_published(torch.tensor(images), torch.tensor(texts), 2.0)
    assert found.item() == pytest.approx(total / 2, abs=1e-6)


# --- collapse ------------------------------------------------------------------------------------


@pytest.mark.parametrize("negatives", [0, 4])
def test_the_value_of_collapse(negatives: int) -> None:
    same = unit(1, 4, 0).expand(9, 4)
    wrong = same[:negatives] if negatives else None
    for name, loss in (("infonce", infonce), ("soft", soft)):
        found = loss(same, same, 20.0, wrong).item()
        assert found == pytest.approx(collapsed_value(name, 9, negatives), abs=1e-9)
    if not negatives:
        assert soft_published(same, same).item() == pytest.approx(math.log(9), abs=1e-9)


def test_the_value_of_a_collapsed_sigmoid_is_its_best() -> None:
    same = unit(1, 4, 0).expand(9, 4)
    found = [sigmoid(same, same, 0.0, bias / 100).item() for bias in range(-400, 0)]
    assert min(found) == pytest.approx(collapsed_value("sigmoid", 9), abs=1e-4)
    assert collapsed_value("sigmoid", 1000) == pytest.approx(math.log(1000) + 1, abs=1e-3)
    assert collapsed_value("sigmoid", 1) == 0.0


# --- chunked forms -------------------------------------------------------------------------------


def outcome(
    loss: Callable[..., Tensor], wrong: bool, merged: bool, **options: int
) -> tuple[Tensor, list[Tensor | None]]:
    """The loss, and the gradient of everything it was given."""
    images, texts, scale, negatives = batch()
    bias = torch.tensor(-1.5, dtype=torch.float64, requires_grad=True)
    extra = [bias] if "sigmoid" in loss.__name__ else []
    value = loss(
        images, texts, scale, *extra, negatives if wrong else None,
        OWNERS if merged else None, **options,
    )  # fmt: skip
    value.backward()
    return value.detach(), [x.grad for x in (images, texts, scale, negatives, *extra)]


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("wrong", [False, True])
@pytest.mark.parametrize(
    ("dense", "chunked"),
    [(infonce, chunked_infonce), (soft, chunked_soft), (sigmoid, chunked_sigmoid)],
)
def test_chunks_change_neither_value_nor_gradient(
    dense: Callable[..., Tensor],
    chunked: Callable[..., Tensor],
    wrong: bool,
    merged: bool,
    chunk: int,
) -> None:
    value, gradients = outcome(dense, wrong, merged)
    found, others = outcome(chunked, wrong, merged, chunk=chunk)
    assert found.item() == pytest.approx(value.item(), abs=EXACT)
    for a, b in zip(gradients, others, strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.allclose(a, b, atol=EXACT)


def test_float32_of_a_large_batch_agrees_to_a_millionth() -> None:
    # two thousand columns: the float32 softmax of the targets alone is off by more
    images, texts = unit(2048, 16, 1), unit(2048, 16, 2)
    texts = functional.normalize(images + texts, dim=-1)
    exact = soft(images, texts, 20.0).item()
    rounded = images.float(), texts.float()
    assert soft(*rounded, 20.0).item() == pytest.approx(exact, abs=1e-6)
    assert chunked_soft(*rounded, 20.0).item() == pytest.approx(exact, abs=1e-6)


def test_a_chunk_of_nothing_is_refused() -> None:
    images, texts, scale, _ = batch()
    for loss in (chunked_infonce, chunked_soft):
        with pytest.raises(ValueError, match="got chunk 0, expected 1 or more"):
            loss(images, texts, scale, chunk=0)


@pytest.mark.parametrize("loss", [infonce, soft, chunked_infonce, chunked_soft])
def test_owners_of_another_length_are_refused(loss: Callable[..., Tensor]) -> None:
    images, texts, scale, _ = batch()
    with pytest.raises(ValueError, match=r"got owners \(3,\), expected \(7,\), one a pair"):
        loss(images, texts, scale, None, OWNERS[:3])


# --- gradient caching ----------------------------------------------------------------------------


def encoder() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.GELU(), nn.Dropout(0.3), nn.Linear(8, 5)).double()


@pytest.mark.parametrize("part", [1, 3, 7, 50])
def test_encoding_in_parts_changes_neither_value_nor_gradient(part: int) -> None:
    model, other = encoder().eval(), encoder().eval()
    images, texts = unit(7, 5, 1), unit(7, 5, 2)
    whole = infonce(functional.normalize(model(images), dim=-1), texts, 5.0)
    features = encode_in_parts(lambda x: functional.normalize(other(x), dim=-1), [images], part)
    parts = chunked_infonce(features, texts, 5.0, chunk=2)
    whole.backward()
    parts.backward()
    assert parts.item() == pytest.approx(whole.item(), abs=EXACT)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, atol=EXACT)


def test_dropout_draws_the_same_numbers_in_both_passes() -> None:
    """With a mask drawn anew the gradient would not be the finite difference."""
    model, images = encoder().train(), unit(6, 5, 1)
    weight = model.get_parameter("0.weight")

    def loss(part: int) -> Tensor:
        torch.manual_seed(7)
        return encode_in_parts(model, [images], part).square().sum()

    loss(2).backward()
    slope = weight.grad[0, 0].item()
    with torch.no_grad():
        weight[0, 0] += 1e-5
        above = loss(2).item()
        weight[0, 0] -= 2e-5
        below = loss(2).item()
    assert slope == pytest.approx((above - below) / 2e-5, rel=1e-6)


def test_parts_hold_the_activations_of_one_part() -> None:
    model = encoder().eval()
    rows: list[int] = []
    model.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    encode_in_parts(model, [unit(7, 5, 1)], 3).sum().backward()
    assert rows == [3, 3, 1, 1, 3, 3]  # forward, then backward from the last part


def test_inputs_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got inputs of \[7, 6\] rows"):
        encode_in_parts(torch.add, [unit(7, 5, 1), unit(6, 5, 1)], 2)
    with pytest.raises(ValueError, match="got part 0"):
        encode_in_parts(torch.neg, [unit(7, 5, 1)], 0)
