"""What a captioner trained here is made of beside its eyes: words, one after another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from clipguide.language.vocabulary import PAD, START

State = tuple[Tensor, ...]
"""What is remembered between two words; each (B, ...)."""


class Decoder(nn.Module, ABC):
    """Words from what was seen, (B, N, C), one token at a time.

    Args:
        width: C.
    """

    center: Tensor
    spread: Tensor
    label_smoothing = 0.0
    """While it is trained (Szegedy et al. 2016, https://arxiv.org/abs/1512.00567, section 7)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))

    def standardize_by(self, seen: Iterable[Tensor]) -> None:
        """Take the mean and the deviation of every channel from what is seen of the photos of the
        training, each (N, C). Without that what all photos share outweighs what tells them apart.

        A channel that hardly ever varies is left small: a tenth of the mean deviation counts.
        """
        count, total, squares = 0, torch.zeros(()), torch.zeros(())
        for rows in (one.double() for one in seen):
            count, total = count + len(rows), total + rows.sum(dim=0)
            squares = squares + rows.square().sum(dim=0)
        mean = total / count
        deviation = (squares / count - mean.square()).clamp(min=0).sqrt()
        self.center.copy_(mean)
        self.spread.copy_(deviation.clamp(min=0.1 * float(deviation.mean()) or 1.0))

    def standardized(self, seen: Tensor) -> Tensor:
        """What was seen, each channel of mean 0 and deviation 1 over the photos of the training."""
        return (seen - self.center) / self.spread

    @abstractmethod
    def begin(self, seen: Tensor) -> State:
        """The state before the start token."""

    @abstractmethod
    def step(self, state: State, tokens: Tensor) -> tuple[Tensor, State]:
        """After one more token (B,): logits of the next (B, V), and the state."""

    @abstractmethod
    def losses(
        self,
        seen: Tensor,
        targets: Tensor,
        generator: torch.Generator,
        learned: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The losses of captions; the one called "loss" is minimised.

        Args:
            seen: (B, N, C).
            targets: (B, K, T) tokens of K captions of each, the end included, then `PAD`.
            generator: of what is drawn beside dropout.
            learned: (B, K, T) the tokens that are learned, the others are read alone; None: all.
        """

    def cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean over tokens; logits (M, V) of targets (M,)."""
        smoothing = self.label_smoothing
        return functional.cross_entropy(logits.float(), targets, label_smoothing=smoothing)

    def attention(self, state: State) -> Tensor | None:
        """(B, N) how far each place was looked at for the last word; None: it looks at none."""
        return None


class LstmCell(nn.Module):
    """One step of an LSTM (Hochreiter and Schmidhuber 1997, with the forget gate of Gers 2000).

    As two linear layers, which run in half precision where autocast is on; `nn.LSTMCell` does not.

    Attributes:
        weight_drop: the share of the weights from state to state that `dropped` leaves out while it
            is trained.
    """

    weight_drop = 0.0
    _kept: Tensor | None = None  # of the weights from state to state, inside `dropped`

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.of_input = nn.Linear(inputs, 4 * hidden)
        self.of_hidden = nn.Linear(hidden, 4 * hidden, bias=False)
        with torch.no_grad():  # it remembers at first (Jozefowicz et al. 2015, section 4)
            self.of_input.bias[hidden : 2 * hidden] = 1.0

    def forward(self, inputs: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs (B, I), hidden and cell (B, H) -> the next hidden and cell."""
        kept = self.of_hidden.weight if self._kept is None else self._kept
        gates = self.of_input(inputs) + functional.linear(hidden, kept)
        enter, forget, new, leave = gates.float().chunk(4, dim=-1)  # in torch's order
        cell = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()
        return leave.sigmoid() * cell.tanh(), cell

    @contextmanager
    def dropped(self) -> Generator[None]:
        """Inside, the same weights are left out for every word of every sentence (Merity et al.
        2018, https://arxiv.org/abs/1708.02182, section 2: the weight-dropped LSTM)."""
        if self.training and self.weight_drop:
            self._kept = functional.dropout(self.of_hidden.weight, self.weight_drop)
        try:
            yield
        finally:
            self._kept = None


class RecurrentDecoder(Decoder):
    """A decoder whose words are read and told by an LSTM."""

    words: nn.Embedding
    cell: LstmCell
    logits: nn.Linear

    def tie_words(self) -> None:
        """From now on a word is told by the vector by which it is read: half the weights, and a
        rare word is learned from both sides (Press and Wolf 2017, https://arxiv.org/abs/1608.05859).
        """
        self.logits.weight = self.words.weight


def shifted(targets: Tensor) -> Tensor:
    """The tokens that stand before each target, (B, T): the start first."""
    first = torch.full_like(targets[:, :1], START)
    return torch.cat([first, targets[:, :-1]], dim=1)


def tokens_learned(targets: Tensor, learned: Tensor | None) -> Tensor:
    """(B, T) which of the targets (B, T) are learned: none beside the end."""
    real = targets != PAD
    return real if learned is None else real & learned.flatten(0, 1)


def token_log_probs(decoder: Decoder, seen: Tensor, targets: Tensor) -> Tensor:
    """(B, T) log-probabilities of targets one after another, 0 beside the end."""
    state, found = decoder.begin(seen), list[Tensor]()
    for tokens, target in zip(shifted(targets).T, targets.T, strict=True):
        logits, state = decoder.step(state, tokens)
        chances = logits.float().log_softmax(dim=-1)
        found.append(chances.gather(1, target[:, None])[:, 0])
    return torch.stack(found, dim=1).masked_fill(targets == PAD, 0.0)
