"""Show and Tell: the picture is the first word that an LSTM reads.

Vinyals et al. 2015, Show and Tell: A Neural Image Caption Generator
(https://arxiv.org/abs/1411.4555), Eq. 10 to 12.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clipguide.language.decoder import (
    LstmCell,
    RecurrentDecoder,
    State,
    shifted,
    tokens_learned,
)


class ShowAndTell(RecurrentDecoder):
    """An LSTM that is shown the mean of all places once, before the first word.

    Args:
        width: C of what is seen.
        vocabulary: V, how many tokens there are.
        hidden: of the LSTM and of the words' vectors.
        dropout: of the words' vectors and of what the logits are made of.
    """

    def __init__(
        self, width: int, vocabulary: int, hidden: int = 512, dropout: float = 0.5
    ) -> None:
        super().__init__(width)
        self.of_image = nn.Linear(width, hidden)
        self.words = nn.Embedding(vocabulary, hidden)
        self.cell = LstmCell(hidden, hidden)
        self.logits = nn.Linear(hidden, vocabulary)
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.words.weight, std=0.1)

    def begin(self, seen: Tensor) -> State:
        """x_{-1} = CNN(I) (Eq. 10)."""
        image = self.of_image(self.standardized(seen).mean(dim=1))  # (B, H)
        nothing = torch.zeros_like(image, dtype=torch.float32)
        return self.cell(self.dropout(image), nothing, nothing)

    def step(self, state: State, tokens: Tensor) -> tuple[Tensor, State]:
        """Eq. 11 and 12."""
        hidden, cell = self.cell(self.dropout(self.words(tokens)), *state)
        return self.logits(self.dropout(hidden)), (hidden, cell)

    def losses(
        self,
        seen: Tensor,
        targets: Tensor,
        generator: torch.Generator,
        learned: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Eq. 13, the mean over tokens."""
        count, flat = targets.shape[1], targets.flatten(0, 1)
        real = tokens_learned(flat, learned)
        with self.cell.dropped():
            hidden, cell = (part.repeat_interleave(count, dim=0) for part in self.begin(seen))
            vectors, found = self.dropout(self.words(shifted(flat))), list[Tensor]()
            for vector in vectors.unbind(dim=1):
                hidden, cell = self.cell(vector, hidden, cell)
                found.append(hidden)
        # the logits of all words at once, one large product, without those beside the ends
        hidden = torch.stack(found, dim=1)[real]
        logits = self.logits(self.dropout(hidden))
        return {"loss": self.cross_entropy(logits, flat[real])}
