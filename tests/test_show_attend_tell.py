"""Soft and hard attention: their losses by hand, and what they learn to look at."""

from __future__ import annotations

import itertools

import pytest
import torch
from tiny_decoders import TARGETS, decoder_of, pictures
from torch import Tensor
from torch.nn import functional

from clipguide.language.captioner_files import RECURRENT
from clipguide.language.show_attend_tell import DRAWN, ENTROPY, HardAttention, SoftAttention
from clipguide.language.vocabulary import END, START


@pytest.fixture
def seen() -> Tensor:
    return pictures()


def drawn(pictures: int, seed: int) -> Tensor:
    """Of which pictures places are drawn: the first draws of a batch decide it."""
    return torch.rand(pictures, generator=torch.Generator().manual_seed(seed)) < DRAWN


def test_the_penalty_is_the_papers(seen: Tensor) -> None:
    decoder = decoder_of("soft_attention")
    assert isinstance(decoder, SoftAttention)
    losses = decoder.losses(seen, TARGETS, torch.Generator())
    sums = []
    for place in range(3):
        for tokens in ([4, 5, END], [6, END]):
            state, looks = decoder.begin(seen[place : place + 1]), []
            for before in [START, *tokens[:-1]]:
                _, state = decoder.step(state, torch.tensor([before]))
                looks.append(decoder.attention(state)[0])
            assert float(looks[0].sum()) == pytest.approx(1, abs=1e-5)
            sums.append((1 - torch.stack(looks).sum(dim=0)).square())
    assert float(losses["penalty"]) == pytest.approx(float(torch.stack(sums).mean()), abs=1e-5)
    total = losses["words"] + losses["penalty"]
    assert float(losses["loss"]) == pytest.approx(float(total), abs=1e-6)


def test_hard_attention_climbs_what_its_places_add(seen: Tensor) -> None:
    """REINFORCE by hand: the gradient of the loss with respect to one weight of f_att is the mean
    of reward times d log p(s), of the places that the generator draws, less the entropy's; the
    reward is what the word gains by the place over the expected context. The second picture is
    read with that."""
    decoder = decoder_of("hard_attention")
    assert isinstance(decoder, HardAttention)
    target = TARGETS[:1, :1].expand(2, -1, -1)
    weight = decoder.energy.weight
    seed = next(s for s in itertools.count() if drawn(2, s).tolist() == [True, False])
    source = torch.Generator().manual_seed(seed)
    torch.rand(2, generator=source)
    losses = decoder.losses(seen[:2], target, torch.Generator().manual_seed(seed))
    (found,) = torch.autograd.grad(
        losses["reinforce"] - ENTROPY * losses["entropy"], weight, retain_graph=True
    )
    climbed, entropy, gains, words = torch.zeros(()), torch.zeros(()), list[Tensor](), 0.0
    once = list[Tensor]()
    for number in range(2):
        state, looks = decoder.begin(seen[number : number + 1]), list[Tensor]()
        for before, token in zip([START, 4, 5], [4, 5, END], strict=True):
            hidden, cell, places, keys, _ = state
            alpha = decoder._alpha(hidden, keys)
            entropy = entropy - (alpha * alpha.log()).sum()
            looks.append(alpha[0])
            vector = decoder.words(torch.tensor([before]))
            spot = torch.multinomial(alpha, 1, generator=source) if number == 0 else None
            looked = [alpha @ places[0]] if spot is None else [places[0, spot[0]]]
            told, after = [], []
            for one in (*looked, alpha @ places[0]):
                context = decoder.gate(hidden).sigmoid() * one
                following = decoder.cell(torch.cat([vector, context], dim=-1), hidden, cell)
                mixed = vector + decoder.out_hidden(following[0]) + decoder.out_context(context)
                told.append(decoder.logits(mixed.tanh())[0].log_softmax(dim=-1)[token])
                after.append(following)
            words -= told[0] / 6
            if spot is not None:  # the baseline was 0
                gains.append((told[0] - told[1]).detach())
                climbed = climbed + gains[-1] * alpha.log().gather(1, spot).sum()
            state = *after[0], places, keys, alpha
        once.append((1 - torch.stack(looks).sum(dim=0)).square())
    penalty = losses["penalty"]
    assert float(penalty) == pytest.approx(float(torch.stack(once).mean()), abs=1e-6)
    total = losses["words"] + losses["reinforce"] - ENTROPY * losses["entropy"] + penalty
    assert float(losses["loss"]) == pytest.approx(float(total), abs=1e-6)
    (by_hand,) = torch.autograd.grad(
        -climbed / 6 - ENTROPY * entropy / 6, weight, retain_graph=True
    )
    assert torch.allclose(found, by_hand, atol=1e-6)
    for one, other in zip(
        torch.autograd.grad(losses["words"], [*decoder.parameters()], allow_unused=True),
        torch.autograd.grad(words, [*decoder.parameters()], allow_unused=True),
        strict=True,
    ):
        assert (one is None and other is None) or torch.allclose(one, other, atol=1e-6)
    mean = float(torch.stack(gains).mean())
    assert float(decoder.baseline) == pytest.approx(0.1 * mean, abs=1e-6)


def test_hard_attention_learns_where_the_word_stands() -> None:
    """One of four places, another in each picture, holds the word; the rest are noise. Words are
    learned of those pictures alone whose places are drawn, without the penalty: nothing but
    REINFORCE tells where to look."""
    torch.manual_seed(0)
    decoder = RECURRENT["hard_attention"](6, 8, 16, 0.0)
    assert isinstance(decoder, HardAttention)
    optimizer = torch.optim.Adam(decoder.parameters(), 1e-2)
    for seed in range(600):
        told, spot = torch.randint(4, 8, (32,)), torch.randint(4, (32,))
        seen = 0.1 * torch.randn(32, 4, 6)
        seen[torch.arange(32), spot] = functional.one_hot(told - 4, 6).float() * 3
        source, learned = torch.Generator().manual_seed(seed), drawn(32, seed)[:, None, None]
        losses = decoder.losses(seen, told[:, None, None], source, learned)
        optimizer.zero_grad()
        (losses["loss"] - losses["penalty"]).backward()
        optimizer.step()
    state = decoder.begin(seen)
    _, state = decoder.step(state, torch.full((32,), START))
    looks = decoder.attention(state)
    assert float((looks.argmax(dim=1) == spot).float().mean()) > 0.9
