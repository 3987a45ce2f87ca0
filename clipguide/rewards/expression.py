"""Rewards as text: "contrast + 0.3*aesthetic:laion-l14 - 0.1*tv", parsed to weighted names.

    sum     = product (("+" | "-") product)*
    product = factor (("*" | "/") factor)*
    factor  = ("-" | "+") factor | number | name [":" argument] | "(" sum ")"

A name is letters, digits and dots; an argument goes on to the next space, bracket or star, or
stands in quotes. Numbers only scale: none is added to a reward, no two rewards are multiplied.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import TypeAlias

DEPTH = 20
"""Brackets and signs within one another, at most."""

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?![\w.])"
    r"|(?P<name>[A-Za-z][\w.]*)(?::(?:\"(?P<quoted>[^\"]+)\"|(?P<argument>[^\s()*\"]+)))?"
    r"|(?P<sign>[-+*/()]))"
)


@dataclass(frozen=True)
class Term:
    """weight · name:argument; an argument that is "" was not given."""

    weight: float
    name: str
    argument: str = ""

    @property
    def label(self) -> str:
        """The name with its argument."""
        return f"{self.name}:{self.argument}" if self.argument else self.name


Value: TypeAlias = "float | tuple[Term, ...]"


def parse_reward(text: str) -> tuple[Term, ...]:
    """The weighted names of a text, in order; whether a name is known is not asked here.

    Raises:
        ValueError: what it got and what it expected: no reward, a number added to one, two rewards
            multiplied, a factor that is not finite, an unknown character.

    Example:
        >>> parse_reward("contrast - 0.1*tv")
        (Term(weight=1.0, name='contrast', argument=''), Term(weight=-0.1, name='tv', argument=''))
    """
    parser = _Parser(text)
    value = parser.sum(0)
    if parser.peek() != "":
        raise parser.refused(f"{parser.peek()!r}", "+ or - before the next reward")
    if not isinstance(value, tuple):
        raise parser.refused(f"the number {value:g}", "a reward")
    return value


class _Parser:
    """A cursor over the tokens of a text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[re.Match[str]] = []
        place = 0
        while text[place:].strip():
            match = _TOKEN.match(text, place)
            if match is None:
                raise self.refused(
                    repr(text[place:].split()[0]), "a name, a number or one of +-*/()"
                )
            self.tokens.append(match)
            place = match.end()
        self.place = 0

    def refused(self, got: str, expected: str) -> ValueError:
        return ValueError(f"got {got} in reward {self.text!r}, expected {expected}")

    def peek(self) -> str:
        """The token to come, "" at the end."""
        return self.tokens[self.place].group().strip() if self.place < len(self.tokens) else ""

    def taken(self, signs: str) -> str:
        """The token to come where it is one of these signs, which it goes past; else ""."""
        sign = self.peek()
        if sign and len(sign) == 1 and sign in signs:
            self.place += 1
            return sign
        return ""

    def sum(self, depth: int) -> Value:
        value = self.product(depth)
        while sign := self.taken("+-"):
            other = self.product(depth)
            if isinstance(value, float) and isinstance(other, float):
                value = value + other if sign == "+" else value - other
            elif isinstance(value, tuple) and isinstance(other, tuple):
                value = (*value, *(other if sign == "+" else self.scaled(other, -1.0)))
            else:
                number = value if isinstance(value, float) else other
                raise self.refused(
                    f"the number {number} added to or subtracted from a reward",
                    "another reward (a constant changes no order and no gradient; did you mean *?)",
                )
        return value

    def product(self, depth: int) -> Value:
        value = self.factor(depth)
        while sign := self.taken("*/"):
            value = self.times(value, self.factor(depth), sign)
        return value

    def times(self, value: Value, other: Value, sign: str) -> Value:
        if isinstance(other, tuple):
            if sign == "/" or isinstance(value, tuple):
                what = "divided by a reward" if sign == "/" else "times a reward"
                whose = f"{value:g}" if isinstance(value, float) else "a reward"
                raise self.refused(f"{whose} {what}", "a number there")
            return self.scaled(other, value)
        if sign == "/" and other == 0:
            raise self.refused("a division by 0", "another number")
        factor = 1 / other if sign == "/" else other
        return self.scaled(value, factor) if isinstance(value, tuple) else value * factor

    def scaled(self, terms: tuple[Term, ...], factor: float) -> tuple[Term, ...]:
        found = tuple(replace(term, weight=factor * term.weight) for term in terms)
        if not all(math.isfinite(term.weight) for term in found):
            raise self.refused(f"a factor of {factor:g}", "finite weights")
        return found

    def factor(self, depth: int) -> Value:
        if depth > DEPTH:
            raise self.refused("brackets and signs", f"at most {DEPTH} within one another")
        if sign := self.taken("+-"):
            value = self.factor(depth + 1)
            return self.times(-1.0, value, "*") if sign == "-" else value
        if self.taken("("):
            value = self.sum(depth + 1)
            if not self.taken(")"):
                raise self.refused(repr(self.peek()) if self.peek() else "the end", "a bracket )")
            return value
        token = self.peek()
        if not token or token in "+-*/()":
            raise self.refused(repr(token) if token else "the end", "a reward or a number")
        match = self.tokens[self.place]
        self.place += 1
        if match["number"]:
            return float(match["number"])
        return (Term(1.0, match["name"], match["quoted"] or match["argument"] or ""),)
