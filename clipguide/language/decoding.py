"""Sentences from a decoder: the likeliest word, the likeliest sentences kept, or drawn words."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clipguide.language.captioner import Request
from clipguide.language.decoder import Decoder, State
from clipguide.language.vocabulary import END, PAD, START, UNKNOWN

_NEVER = (PAD, START, UNKNOWN)


@dataclass(frozen=True)
class Sentence:
    """Tokens with their end, its log-probability in nats, and where each looked (T, N)."""

    tokens: list[int]
    log_prob: float
    attention: Tensor | None = None


class _Beams:
    """Sentences of one batch while they grow: (B, W) of them, row b * W + w of every tensor."""

    def __init__(
        self, batch: int, width: int, device: torch.device, word_penalty: float = 0.0
    ) -> None:
        self.batch, self.width, self.word_penalty = batch, width, word_penalty
        self.tokens = torch.full((batch * width, 1), START, device=device)
        first = torch.full((batch, width), -torch.inf, device=device)
        first[:, 0] = 0  # all beams begin alike: only one of them counts
        self.scores = first.flatten()
        self.looks: list[Tensor] = []

    @property
    def ended(self) -> Tensor:
        return self.tokens[:, -1] == END

    def keep(self, rows: Tensor, tokens: Tensor, scores: Tensor) -> None:
        self.tokens = torch.cat([self.tokens[rows], tokens[:, None]], dim=1)
        self.scores = scores
        self.looks = [look[rows] for look in self.looks]


def write_sentences(
    decoder: Decoder,
    seen: Tensor,
    request: Request,
    generator: torch.Generator | None,
    longest: int,
    word_penalty: float = 0.0,
) -> list[list[Sentence]]:
    """Of each row of `seen` (B, N, C) `request.count` sentences, the best first; fewer where there
    are not as many.

    "beam" goes by the log-probability of the sentence, as the papers do (transformers calls it a
    `length_penalty` of 0), less what its words cost: the mean over tokens prefers sentences longer
    than people's. "sample" draws from the model as it is (temperature 1).

    Args:
        decoder: in evaluation mode.
        generator: of "sample".
        longest: words of a sentence at most; one that reaches it has no end.
        word_penalty: what a word costs in nats, of "greedy" and "beam": above 0 they are shorter
            (Koehn et al. 2003, https://aclanthology.org/N03-1017, section 2; their omega).
    """
    drawn = request.method == "sample"
    width = request.count if drawn else request.width
    beams = _Beams(len(seen), width, seen.device, 0.0 if drawn else word_penalty)
    if drawn:
        beams.scores = torch.zeros_like(beams.scores)
    state = tuple(part.repeat_interleave(width, dim=0) for part in decoder.begin(seen))
    for _ in range(longest + 1):
        logits, state = decoder.step(state, beams.tokens[:, -1].clamp(min=START))
        chances = logits.float().log_softmax(dim=-1)
        chances[:, _NEVER] = -torch.inf  # no word, whatever it is
        ended = beams.ended | (beams.tokens[:, -1] == PAD)
        chances[ended] = -torch.inf
        chances[ended, PAD] = 0.0
        state = _draw(beams, chances, state, generator) if drawn else _grow(beams, chances, state)
        look = decoder.attention(state)
        if look is not None:
            beams.looks.append(look)
        if bool((beams.ended | (beams.tokens[:, -1] == PAD)).all()):
            break
    return _sorted(beams, request.count)


def _grow(beams: _Beams, chances: Tensor, state: State) -> State:
    """One more token of the likeliest continuations, `width` of each image.

    They are compared by their sums less what their words cost, while they grow and at the end.
    """
    cost = torch.full_like(chances[0], beams.word_penalty)
    cost[[PAD, END]] = 0.0
    words = (beams.tokens > UNKNOWN).sum(dim=1) * beams.word_penalty
    total = beams.scores[:, None] + chances  # (B * W, V)
    ranked = (total - words[:, None] - cost).view(beams.batch, -1)
    places = ranked.topk(beams.width, dim=1).indices
    scores = total.view(beams.batch, -1).gather(1, places)
    vocabulary = chances.shape[1]
    first = torch.arange(beams.batch, device=places.device)[:, None] * beams.width
    rows = (first + places // vocabulary).flatten()
    beams.keep(rows, (places % vocabulary).flatten(), scores.flatten())
    return tuple(part[rows] for part in state)


def _draw(beams: _Beams, chances: Tensor, state: State, generator: torch.Generator | None) -> State:
    tokens = torch.multinomial(chances.exp().cpu(), 1, generator=generator)[:, 0].to(chances.device)
    scores = beams.scores + chances.gather(1, tokens[:, None])[:, 0]
    beams.keep(torch.arange(len(tokens), device=tokens.device), tokens, scores)
    return state


def _sorted(beams: _Beams, count: int) -> list[list[Sentence]]:
    rows: list[list[int]] = beams.tokens[:, 1:].tolist()
    looks = torch.stack(beams.looks, dim=1) if beams.looks else None  # (B * W, T, N)
    found: list[Sentence] = []
    for place, row in enumerate(rows):
        tokens = [token for token in row if token != PAD]
        look = None if looks is None else looks[place, : len(tokens)].cpu()
        found.append(Sentence(tokens, float(beams.scores[place]), look))
    # beams that were never more than a copy of another have no probability
    groups = [found[at : at + beams.width] for at in range(0, len(found), beams.width)]
    alive = [[one for one in group if one.log_prob > -torch.inf] for group in groups]
    best = [sorted(group, key=lambda s: -_value(s, beams.word_penalty)) for group in alive]
    return [group[:count] for group in best]


def _value(sentence: Sentence, word_penalty: float) -> float:
    words = sum(token > UNKNOWN for token in sentence.tokens)
    return sentence.log_prob - word_penalty * words
