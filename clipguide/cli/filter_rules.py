"""The rules of `clipguide filter`, from its options to what each keeps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from clipguide.cli.mistakes import Mistake
from clipguide.cli.output import note

if TYPE_CHECKING:
    from torch import Tensor

    from clipguide.clip.scorer import Scorer
    from clipguide.evaluation.threshold import PickedThreshold
    from clipguide.retrieval.index import Index
    from clipguide.retrieval.items import Items
    from clipguide.retrieval.repeats import Repeats
    from clipguide.retrieval.rules import Rule

AUTO = "auto"
"""A threshold that --labels picks."""
Threshold = float | str


@dataclass(frozen=True)
class Asked:
    """The rules that were asked for; None and empty ones were not.

    Attributes:
        keep, drop: phrases.
        margin: least difference of the best cosine with each.
        templates: texts with {} for a phrase.
        agreement: least cosine of a caption with its image.
        aesthetic: least rating.
        head: what rates.
        duplicates: cosine from which an image repeats an earlier one.
        side: least width and height, pixels.
        where: conditions on metadata.
        safety: name of the checker.
    """

    keep: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    margin: Threshold = 0.0
    templates: tuple[str, ...] = ("{}",)
    agreement: Threshold | None = None
    aesthetic: Threshold | None = None
    head: str | None = None
    duplicates: float | None = None
    side: int | None = None
    where: tuple[str, ...] = ()
    safety: str | None = None

    def check(self, labels: bool) -> None:
        """Mistake for no rule, for half of one, or for a threshold that nothing can pick."""
        if bool(self.keep) != bool(self.drop):
            got, missing = ("--keep", "--drop") if self.keep else ("--drop", "--keep")
            raise Mistake(f"got {got} alone, expected {missing} with it: what is compared with it?")
        if twice := set(self.keep) & set(self.drop):
            raise Mistake(f"got {sorted(twice)[0]!r} in --keep and in --drop, expected it in one")
        if (self.aesthetic is None) != (self.head is None):
            raise Mistake("give --min-aesthetic and --head together: the head says what is rated")
        if self.duplicates is not None and not 0 < self.duplicates <= 1:
            raise Mistake(f"got --duplicates {self.duplicates}, expected a cosine in (0, 1]")
        auto = AUTO in (self.margin if self.keep else None, self.agreement, self.aesthetic)
        if auto and not labels:
            raise Mistake(f"got a threshold {AUTO}, expected --labels FILE to pick it from")
        if labels and not auto:
            raise Mistake(f"got --labels and no threshold to pick: give --margin {AUTO} (or "
                          f"--min-agreement {AUTO}, --min-aesthetic {AUTO})")  # fmt: skip
        rules = (self.keep, self.agreement, self.aesthetic, self.duplicates, self.side, self.where)
        if not any(rule not in (None, ()) for rule in (*rules, self.safety)):
            raise Mistake("got no rule: give --keep and --drop, --min-agreement, --min-aesthetic, "
                          "--duplicates, --min-side, --where or --safety")  # fmt: skip


def threshold_of(option: str, text: str | None) -> Threshold | None:
    """A finite number, or `auto`."""
    if text is None or text == AUTO:
        return text
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise Mistake(f"got {option} {text}, expected a number or {AUTO}")
    return value


@dataclass(frozen=True)
class Captioned:
    """Captions of items: their vectors (C, D), and the place of the item that each is of (C,)."""

    texts: Sequence[str]
    vectors: Tensor
    owners: Tensor


@dataclass
class Rules:
    """The rules of a run, made one after the other; all are asked of all items.

    Attributes:
        index, items: what is filtered.
        answers: whether items are to be kept, by their places, where that is known.
        rules: those made so far.
        picked: thresholds that were picked, by the rule's name.
        captions: with `agreements`, their cosines, where captions are asked for.
        repeats: where near-duplicates are asked for.
    """

    index: Index
    items: Items
    answers: dict[int, bool]
    rules: list[Rule] = field(default_factory=list["Rule"])
    picked: dict[str, PickedThreshold] = field(default_factory=dict[str, "PickedThreshold"])
    captions: Captioned | None = None
    agreements: Tensor | None = None
    repeats: Repeats | None = None

    def phrases(self, asked: Asked, scorer: Scorer) -> None:
        """What is nearer to the phrases to keep than to those to drop."""
        from clipguide.retrieval.rule_values import margins
        from clipguide.zero_shot import label_vectors

        keep, drop = (label_vectors(scorer, p, asked.templates) for p in (asked.keep, asked.drop))
        says = f"{_either(asked.keep)} over {_either(asked.drop)}, margin"
        self._cut(
            "phrases", says, margins(self.items.vectors, keep.cpu(), drop.cpu()), asked.margin
        )

    def agreement(self, threshold: Threshold, scorer: str, captions: Captioned) -> None:
        """Of the captions of each image the one that agrees best."""
        from clipguide.retrieval.rule_values import agreements, best_of_each

        self.captions = captions
        self.agreements = agreements(self.items.vectors, captions.vectors, captions.owners)
        best = best_of_each(self.agreements, captions.owners, len(self.items.paths))
        self._cut("agreement", f"caption agreement by {scorer}", best, threshold)

    def aesthetic(self, threshold: Threshold, head: str) -> None:
        """What an aesthetic head says."""
        from clipguide.retrieval.rule_values import ratings
        from clipguide.rewards.aesthetic import load_aesthetic_head

        values = ratings(self.items.vectors, load_aesthetic_head(head))
        self._cut("aesthetic", f"aesthetic rating by {head}", values, threshold)

    def duplicates(self, threshold: float) -> None:
        """All but one of those that are alike: of what the rules so far keep, or else of all, the
        largest, the first by name of equally large ones."""
        import torch

        from clipguide.retrieval.repeats import Repeats, find_repeats
        from clipguide.retrieval.rules import Cut, Rule, kept_by_all

        areas = [-int(one["width"]) * int(one["height"]) for one in self.items.details]
        nothing = [False] * len(areas)
        gone: list[bool] = (~kept_by_all(self.rules)).tolist() if self.rules else nothing
        # stable: then by name
        order = sorted(range(len(areas)), key=lambda place: (gone[place], areas[place]))
        contents = [self.items.contents[place] for place in order]
        found = find_repeats(self.items.vectors[order], contents, threshold)
        back = torch.tensor(order).argsort()
        twins = [order[twin] if twin >= 0 else -1 for twin in found.twins]
        self.repeats = Repeats(found.cosines[back], [twins[place] for place in back.tolist()])
        cut = Cut(self.repeats.cosines.double(), threshold, below=True)
        says = f"no near-duplicate: cosine with an image that stays < {threshold:g}"
        self.rules.append(Rule.of("duplicates", says, cut))

    def side(self, least: int) -> None:
        """Width and height."""
        from clipguide.retrieval.rule_values import smaller_sides

        sizes = [(int(one["width"]), int(one["height"])) for one in self.items.details]
        self._cut("side", "smaller side in pixels", smaller_sides(sizes), float(least))

    def where(self, conditions: Sequence[str]) -> None:
        """Each condition is a rule of its own."""
        from clipguide.retrieval.filters import parse_filter
        from clipguide.retrieval.items import meeting
        from clipguide.retrieval.rules import Rule

        for text in conditions:
            kept = meeting(self.index, self.items, [parse_filter(text)])
            self.rules.append(Rule(f"where {text}", text, kept))

    def safety(self, name: str, unsafe: Tensor) -> None:
        """What a safety checker would not black out."""
        from clipguide.retrieval.rules import Rule

        self.rules.append(Rule("safety", f"not blacked out by {name}", ~unsafe))

    def _cut(self, name: str, says: str, values: Tensor, threshold: Threshold) -> None:
        from clipguide.retrieval.rules import Cut, Rule

        values = values.double().cpu()
        cut = self._pick(name, values) if isinstance(threshold, str) else threshold
        self.rules.append(Rule.of(name, f"{says} >= {cut:.5g}", Cut(values, cut)))

    def _pick(self, name: str, values: Tensor) -> float:
        import torch

        from clipguide.evaluation.threshold import pick_threshold

        places = [place for place in self.answers if not values[place].isnan()]
        if len(places) < len(self.answers):
            note(f"clipguide: {len(self.answers) - len(places)} examples have no {name}")
        truth = torch.tensor([self.answers[place] for place in places], dtype=torch.bool)
        try:
            self.picked[name] = picked = pick_threshold(values[places], truth)
        except ValueError as error:
            raise Mistake(f"--labels for {name}: {error}") from error
        return picked.threshold


def _either(phrases: Sequence[str]) -> str:
    return " or ".join(repr(phrase) for phrase in phrases)
