"""BLEU, ROUGE-L and CIDEr-D of captions, as the COCO evaluation code computes them.

Papineni et al. 2002 (https://aclanthology.org/P02-1040), Lin 2004
(https://aclanthology.org/W04-1013), Vedantam et al. 2015 (https://arxiv.org/abs/1411.5726); the
constants that the code adds to avoid a division by zero are its own, and so are they here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from clipguide.evaluation.ptb import ptb_tokens

Tokens = Sequence[str]
Ngram = tuple[str, ...]

ORDERS = 4
"""The longest n-grams, of BLEU and of CIDEr."""
_SMALL, _TINY = 1e-9, 1e-15
ROUGE_BETA = 1.2
CIDER_SIGMA = 6.0
"""Of the Gaussian penalty on lengths that differ (CIDEr-D, section 6 of the paper)."""


def bleu(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> list[float]:
    """BLEU-1 to -4 of a set, in [0, 1]: n-gram counts of all captions together, each clipped at its
    most in one reference; the brevity penalty by the reference nearest in length.

    Args:
        candidates: (N) captions.
        references: of each, one or more.

    Example:
        >>> [round(value, 2) for value in bleu([["a", "dog"]], [[["a", "dog"]]])[:2]]
        [1.0, 1.0]
    """
    guessed, correct = [0] * ORDERS, [0] * ORDERS
    length = nearest = 0
    for candidate, own in zip(candidates, references, strict=True):
        most: Counter[Ngram] = Counter()
        for reference in own:
            most |= _ngrams(reference)
        for ngram, count in _ngrams(candidate).items():
            correct[len(ngram) - 1] += min(count, most[ngram])
        for order in range(ORDERS):
            guessed[order] += max(0, len(candidate) - order)
        length += len(candidate)
        nearest += min((abs(len(one) - len(candidate)), len(one)) for one in own)[1]
    ratio = (length + _TINY) / (nearest + _SMALL)
    penalty = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    product, found = 1.0, list[float]()
    for order, (right, made) in enumerate(zip(correct, guessed, strict=True), 1):
        product *= (right + _TINY) / (made + _SMALL)
        found.append(penalty * product ** (1 / order))
    return found


def rouge_l(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> float:
    """ROUGE-L, the mean over captions, in [0, 1]: the longest common subsequence, best precision
    and best recall among the references, F with beta 1.2."""
    scores = [_rouge(one, own) for one, own in zip(candidates, references, strict=True)]
    return sum(scores) / len(scores)


def _rouge(candidate: Tokens, references: Sequence[Tokens]) -> float:
    common = [_common(candidate, reference) for reference in references]
    precision = max(common) / max(1, len(candidate))
    recall = max(n / max(1, len(one)) for n, one in zip(common, references, strict=True))
    if not precision or not recall:
        return 0.0
    square = ROUGE_BETA**2
    return (1 + square) * precision * recall / (recall + square * precision)


def _common(first: Tokens, second: Tokens) -> int:
    """The length of the longest common subsequence."""
    row = [0] * (len(second) + 1)
    for word in first:
        before = 0  # the entry above and to the left
        for place, other in enumerate(second, 1):
            above = row[place]
            row[place] = before + 1 if word == other else max(above, row[place - 1])
            before = above
    return row[-1]


def cider_d(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> list[float]:
    """CIDEr-D of each caption, 0 to 10 (papers print a hundred times its mean): cosines of
    tf-idf vectors of n-grams, clipped, by n from 1 to 4, with a penalty on lengths that differ.

    The document frequencies are those of these references: a number is of the whole set, and a
    set of one image gives 0.
    """
    frequency: Counter[Ngram] = Counter()
    counted = [[_ngrams(one) for one in own] for own in references]
    for own in counted:
        frequency.update({ngram for one in own for ngram in one})
    weigh = _Weights(frequency, len(references))
    return [
        sum(weigh.likeness(_ngrams(candidate), one) for one in own) / len(own) * 10
        for candidate, own in zip(candidates, counted, strict=True)
    ]


class _Weights:
    """tf-idf over a set of references."""

    def __init__(self, frequency: Counter[Ngram], documents: int) -> None:
        self._log = math.log(documents)
        self._idf = {ngram: self._log - math.log(count) for ngram, count in frequency.items()}

    def vectors(self, counts: Counter[Ngram]) -> tuple[list[dict[Ngram, float]], list[float]]:
        """By order: the weights, and their norms."""
        found: list[dict[Ngram, float]] = [{} for _ in range(ORDERS)]
        for ngram, count in counts.items():
            found[len(ngram) - 1][ngram] = count * self._idf.get(ngram, self._log)
        return found, [math.sqrt(sum(w * w for w in one.values())) for one in found]

    def likeness(self, candidate: Counter[Ngram], reference: Counter[Ngram]) -> float:
        """Mean over the orders of the clipped cosine."""
        # the code's length is that of the bigrams
        gap = sum(n for g, n in candidate.items() if len(g) == 2) - sum(
            n for g, n in reference.items() if len(g) == 2
        )
        total = 0.0
        (mine, norms), (theirs, other_norms) = self.vectors(candidate), self.vectors(reference)
        for one, other, norm, other_norm in zip(mine, theirs, norms, other_norms, strict=True):
            dot = sum(min(w, other.get(g, 0.0)) * other.get(g, 0.0) for g, w in one.items())
            total += dot / (norm * other_norm) if norm and other_norm else dot
        return total / ORDERS * math.exp(-(gap**2) / (2 * CIDER_SIGMA**2))


def caption_report(
    candidates: Mapping[str, str], references: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """`bleu_1` to `bleu_4`, `rouge_l` and `cider` of a set, tokenised by `ptb_tokens`.

    Args:
        candidates: image -> its caption.
        references: image -> its captions; of every image of `candidates`.

    Raises:
        ValueError: no caption, or an image without references (named).

    Example:
        >>> found = caption_report({"a": "A dog."}, {"a": ["a dog", "the dog"]})
        >>> round(found["bleu_1"], 3), round(found["rouge_l"], 3)
        (1.0, 1.0)
    """
    if not candidates:
        raise ValueError("got no captions, expected one or more")
    without = [image for image in candidates if not references.get(image)]
    if without:
        raise ValueError(f"got no reference caption of {without[0]!r}, expected one or more")
    mine = [ptb_tokens(caption) for caption in candidates.values()]
    theirs = [[ptb_tokens(text) for text in references[image]] for image in candidates]
    found = {f"bleu_{n}": value for n, value in enumerate(bleu(mine, theirs), 1)}
    scores = cider_d(mine, theirs)
    return {**found, "rouge_l": rouge_l(mine, theirs), "cider": sum(scores) / len(scores)}


def _ngrams(tokens: Tokens) -> Counter[Ngram]:
    return Counter(_each_ngram(tokens))


def _each_ngram(tokens: Tokens) -> Iterator[Ngram]:
    for order in range(1, ORDERS + 1):
        for start in range(len(tokens) - order + 1):
            yield tuple(tokens[start : start + order])
