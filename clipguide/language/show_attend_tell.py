"""Show, Attend and Tell: an LSTM that looks at a part of the picture for each word.

Xu et al. 2015, Show, Attend and Tell: Neural Image Caption Generation with Visual Attention
(https://arxiv.org/abs/1502.03044), sections 3.1, 4.1 (hard) and 4.2 (soft).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from clipguide.language.decoder import (
    LstmCell,
    RecurrentDecoder,
    State,
    shifted,
    tokens_learned,
)
from clipguide.language.vocabulary import PAD

DOUBLY = 1.0
"""Weight of the doubly stochastic penalty (Eq. 14; the authors' code has 1)."""
REWARD, ENTROPY = 1.0, 0.002
"""lambda_r and lambda_e of the hard attention (section 4.1; the values of the authors' code)."""
DRAWN = 0.25
"""The share of pictures that are read with drawn places (the last paragraph of section 4.1 has
half): with half of them, captions written from the expected context were worse."""
KEPT = 0.9
"""Of the moving baseline at each batch."""
_LEAST = 1e-8  # of a probability whose logarithm is taken


@dataclass(frozen=True)
class _Read:
    """What the words are told from, one after another: h_t and z_t, (B, H) each."""

    hidden: list[Tensor] = field(default_factory=list[Tensor])
    contexts: list[Tensor] = field(default_factory=list[Tensor])

    def add(self, hidden: Tensor, context: Tensor) -> None:
        self.hidden.append(hidden)
        self.contexts.append(context)

    def rows(self, rows: Tensor) -> _Read:
        """Of some captions."""
        return _Read([one[rows] for one in self.hidden], [one[rows] for one in self.contexts])


@dataclass(frozen=True)
class _Walk:
    """What was read and how likely each place was (B, N); and of the captions whose places were
    drawn, what would have been read with the expected context, and log p of the place (D,)."""

    read: _Read = field(default_factory=_Read)
    expected: _Read = field(default_factory=_Read)
    alphas: list[Tensor] = field(default_factory=list[Tensor])
    chances: list[Tensor] = field(default_factory=list[Tensor])


class ShowAttendTell(RecurrentDecoder):
    """What both attentions share: a_i are places of the picture, reduced by one layer.

    Args:
        width: C of what is seen.
        vocabulary: V, how many tokens there are.
        hidden: of the LSTM, of the places and of the words' vectors.
        dropout: of the words' vectors, of the places and of what the logits are made of.
    """

    def __init__(
        self, width: int, vocabulary: int, hidden: int = 512, dropout: float = 0.5
    ) -> None:
        super().__init__(width)
        self.places = nn.Linear(width, hidden)
        self.of_place = nn.Linear(hidden, hidden // 2)
        self.of_hidden = nn.Linear(hidden, hidden // 2)
        self.energy = nn.Linear(hidden // 2, 1)
        self.first = nn.Linear(hidden, 2 * hidden)
        self.gate = nn.Linear(hidden, 1)
        self.words = nn.Embedding(vocabulary, hidden)
        self.cell = LstmCell(2 * hidden, hidden)
        self.out_context = nn.Linear(hidden, hidden)
        self.out_hidden = nn.Linear(hidden, hidden)
        self.logits = nn.Linear(hidden, vocabulary)
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.words.weight, std=0.1)

    def begin(self, seen: Tensor) -> State:
        """f_init: the LSTM starts from the mean of the places (section 3.1.2)."""
        places = self.places(self.standardized(seen)).relu()  # (B, N, H)
        # the same numbers of all places are dropped: were they drawn for each, the mean of many
        # places would be the quietest thing to look at
        places = places * self.dropout(torch.ones_like(places[:, :1]))
        hidden, cell = self.first(places.mean(dim=1)).float().tanh().chunk(2, dim=-1)
        even = torch.full(places.shape[:2], 1 / places.shape[1], device=places.device)
        return hidden, cell, places, self.of_place(places), even

    def attention(self, state: State) -> Tensor:
        """alpha of the last word, (B, N)."""
        return state[4]

    def step(self, state: State, tokens: Tensor) -> tuple[Tensor, State]:
        vector = self.dropout(self.words(tokens))
        state, context = self._next(state, vector)
        return self._logits(state[0], context, vector), state

    def _next(self, state: State, vector: Tensor) -> tuple[State, Tensor]:
        """One step of the LSTM, and the context z_t that it read."""
        hidden, cell, places, keys, _ = state
        alpha = self._alpha(hidden, keys)
        context = self._context(hidden, alpha, places)
        hidden, cell = self.cell(torch.cat([vector, context], dim=-1), hidden, cell)
        return (hidden, cell, places, keys, alpha), context

    def _alpha(self, hidden: Tensor, keys: Tensor) -> Tensor:
        """Eq. 4 and 5 with additive attention: how likely each place is, (B, N)."""
        energy = self.energy((keys + self.of_hidden(hidden)[:, None]).tanh())
        return energy[..., 0].float().softmax(dim=-1)

    def _context(self, hidden: Tensor, weights: Tensor, places: Tensor) -> Tensor:
        """beta times the places as they are weighed (section 4.2.1)."""
        beta = self.gate(hidden).float().sigmoid()  # (B, 1)
        return beta * (weights[:, None].to(places.dtype) @ places)[:, 0].float()

    def _logits(self, hidden: Tensor, context: Tensor, vector: Tensor) -> Tensor:
        """Deep output (Eq. 7)."""
        mixed = vector + self.out_hidden(self.dropout(hidden)) + self.out_context(context)
        return self.logits(self.dropout(mixed.tanh()))

    def _all_logits(
        self, hidden: list[Tensor], contexts: list[Tensor], vectors: Tensor, real: Tensor
    ) -> Tensor:
        """(M, V) of the M tokens chosen by `real` (B, T): one large product."""
        return self._logits(
            torch.stack(hidden, 1)[real], torch.stack(contexts, 1)[real], vectors[real]
        )

    def _repeated(self, seen: Tensor, count: int) -> State:
        return tuple(part.repeat_interleave(count, dim=0) for part in self.begin(seen))


def _doubly(looks: Sequence[Tensor], targets: Tensor) -> Tensor:
    """Eq. 14, its second term: over captions and places, how far what was looked at in all words of
    targets (B, T) is from once. `looks` are the (B, N) of each word."""
    told = (targets != PAD).float().T[..., None]  # (T, B, 1)
    return (1 - (torch.stack([*looks]) * told).sum(dim=0)).square().mean()


class SoftAttention(ShowAttendTell):
    """The expected context, and the penalty that makes every place be looked at (Eq. 13, 14)."""

    def losses(
        self,
        seen: Tensor,
        targets: Tensor,
        generator: torch.Generator,
        learned: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Eq. 14; the first term is the mean over tokens, the second over captions and places."""
        flat = targets.flatten(0, 1)
        hidden, contexts, looks = list[Tensor](), list[Tensor](), list[Tensor]()
        with self.cell.dropped():
            state = self._repeated(seen, targets.shape[1])
            vectors = self.dropout(self.words(shifted(flat)))
            for vector in vectors.unbind(dim=1):
                state, context = self._next(state, vector)
                hidden.append(state[0])
                contexts.append(context)
                looks.append(state[4])
        real = tokens_learned(flat, learned)
        logits = self._all_logits(hidden, contexts, vectors, real)
        words = self.cross_entropy(logits, flat[real])
        penalty = _doubly(looks, flat)
        return {"loss": words + DOUBLY * penalty, "words": words, "penalty": penalty}


class HardAttention(ShowAttendTell):
    """One place for each word, drawn; learned by REINFORCE (section 4.1). The penalty of the soft
    attention is taken, too, as in the authors' code.

    Once it is learned, words are written and log-probabilities told from the expected context, as
    the authors' code does: nearly the mean over all places (section 4.2.1), and nothing is drawn.
    """

    baseline: Tensor

    def __init__(
        self, width: int, vocabulary: int, hidden: int = 512, dropout: float = 0.5
    ) -> None:
        super().__init__(width, vocabulary, hidden, dropout)
        self.register_buffer("baseline", torch.zeros(()))

    def losses(
        self,
        seen: Tensor,
        targets: Tensor,
        generator: torch.Generator,
        learned: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The gradient of Eq. 12 as a loss. `DRAWN` of the pictures, by chance, are read with a
        drawn place for each word, the others with the expected context.

        The reward of a place is what its word gains by it: log p(y_t | s_t) less that at the
        expected context, and less the moving baseline b. How likely the words are by themselves
        varies a hundred times more than what a place adds, and would drown it.
        """
        flat = targets.flatten(0, 1)
        chosen = torch.rand(len(seen), generator=generator) < DRAWN
        drawn = chosen.repeat_interleave(targets.shape[1]).nonzero()[:, 0].to(seen.device)
        with self.cell.dropped():
            state = self._repeated(seen, targets.shape[1])
            vectors = self.dropout(self.words(shifted(flat)))
            walk = self._walk(state, vectors, drawn, generator)
        real = tokens_learned(flat, learned)
        words = self.cross_entropy(
            self._all_logits(walk.read.hidden, walk.read.contexts, vectors, real), flat[real]
        )
        looks = torch.stack(walk.alphas, dim=1)[flat != PAD]  # (M, N)
        entropy = -(looks * looks.clamp(min=_LEAST).log()).sum(dim=1).mean()
        reinforce = torch.zeros_like(words)
        if len(drawn):
            rows = vectors[drawn], real[drawn], flat[drawn]
            read = walk.read.rows(drawn)
            gain = self._told(read, *rows) - self._told(walk.expected, *rows)
            chance = torch.stack(walk.chances, dim=1)[real[drawn]]
            reinforce = -(REWARD * (gain - self.baseline) * chance).sum() / real.sum()
            with torch.no_grad():  # b_k = .9 b_{k-1} + .1 of the reward
                self.baseline.mul_(KEPT).add_((1 - KEPT) * gain.mean())
        penalty = _doubly(walk.alphas, flat)
        loss = words + reinforce - ENTROPY * entropy + DOUBLY * penalty
        found = {"loss": loss, "words": words, "penalty": penalty}
        return found | {"reinforce": reinforce, "entropy": entropy}

    def _walk(
        self, state: State, vectors: Tensor, drawn: Tensor, generator: torch.Generator
    ) -> _Walk:
        """Word after word: those captions whose number is in `drawn` are read with a place that is
        drawn, the others with the expected context."""
        walk, of_drawn = _Walk(), state[2].detach()[drawn]
        for vector in vectors.unbind(dim=1):
            last, cell, places, keys, _ = state
            alpha = self._alpha(last, keys)
            likely = alpha[drawn]
            spot = torch.multinomial(likely.detach().cpu(), 1, generator=generator)
            spot = spot.to(alpha.device)
            walk.chances.append(likely.gather(1, spot)[:, 0].clamp(min=_LEAST).log())
            with torch.no_grad():
                mean = self._context(last[drawn], likely, of_drawn)
                looked = torch.cat([vector[drawn], mean], dim=-1)
                walk.expected.add(self.cell(looked, last[drawn], cell[drawn])[0], mean)
            one = torch.zeros_like(likely).scatter_(1, spot, 1.0)
            context = self._context(last, alpha.index_copy(0, drawn, one), places)
            last, cell = self.cell(torch.cat([vector, context], dim=-1), last, cell)
            state = last, cell, places, keys, alpha
            walk.alphas.append(alpha)
            walk.read.add(last, context)
        return walk

    @torch.no_grad()
    def _told(self, read: _Read, vectors: Tensor, real: Tensor, targets: Tensor) -> Tensor:
        """(M,) log p of the tokens chosen by `real`, without dropout of what the logits are made
        of: its noise is none of a place's doing."""
        kept = self.dropout.training
        self.dropout.eval()
        logits = self._all_logits(read.hidden, read.contexts, vectors, real).float()
        self.dropout.train(kept)
        return logits.log_softmax(dim=-1).gather(1, targets[real][:, None])[:, 0]
