"""One clear line out of what a model library raises."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager

from clipguide.clip.hub_errors import hub_cause

_LONGEST = 240  # characters


def refusal(name: str, error: BaseException) -> ValueError:
    """The error a user sees when `name` cannot be loaded: its cause in one sentence."""
    return ValueError(f"{name}: cannot be loaded ({cause_of(error)})")


def cause_of(error: BaseException) -> str:
    """What went wrong: at the Hub, or else the first sentence of the message."""
    meaning = hub_cause([*_chain(error)])
    if meaning is not None:
        return meaning
    if isinstance(error, KeyError):
        return f"got no {error}, expected one"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    sentence = re.split(r"\. (?=[A-Z])", lines[0])[0] if lines else type(error).__name__
    return sentence[:_LONGEST]


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


@contextmanager
def refusing(name: str) -> Generator[None]:
    """Whatever a library raises while `name` is loaded becomes one ValueError that begins with it.

    A ValueError that begins with the name already is left as it is.
    """
    try:
        yield
    except Exception as error:  # OSError, KeyError, TypeError, SafetensorError, JSON errors ...
        if isinstance(error, ValueError) and str(error).startswith(f"{name}: "):
            raise
        raise refusal(name, error) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of a library in Rust: a BaseException
            raise
        raise refusal(name, error) from error
