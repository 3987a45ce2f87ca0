"""What went wrong, for the page: one sentence, no traceback."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from clipguide.extras import need
from clipguide.images import ImageError
from clipguide.texts import printable
from clipguide.web.live import CalledOff

MOST = 300
LOADING = "Loading the models: once, half a minute or so."


@contextmanager
def told() -> Generator[None]:
    """Turns what is raised inside into a message of the page."""
    error: Any = need("gradio", "web").Error
    try:
        yield
    except CalledOff:
        raise error("Cancelled.", title="Cancelled", print_exception=False) from None
    except (ValueError, OSError, NotImplementedError) as found:
        raise error(reason(found), title="Not possible", print_exception=False) from found


def reason(error: BaseException) -> str:
    """What a visitor is told of an error: where a file is on this machine is nobody's business."""
    if isinstance(error, ImageError):
        return sentence(f"this picture cannot be read: {error.reason}")
    if isinstance(error, OSError):
        return sentence(error.strerror or "a file cannot be read")
    return sentence(str(error))


def sentence(text: str) -> str:
    """One line, inert, of bounded length, that begins with a capital."""
    line = printable(" ".join(text.split()))
    line = line if len(line) <= MOST else line[: MOST - 3] + "..."
    return line[:1].upper() + line[1:]
