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


@contextmanager
def told() -> Generator[None]:
    """Turns what is raised inside into a message of the page."""
    error: Any = need("gradio", "web").Error
    try:
        yield
    except CalledOff:
        raise error("Cancelled.", title="Cancelled", print_exception=False) from None
    except ImageError as found:  # of an upload: its place here is nobody's business
        raise error(sentence(found.reason), title="Not a picture", print_exception=False) from found
    except OSError as found:  # nor is that of a file of this machine's
        reason = found.strerror or "a file cannot be read"
        raise error(sentence(reason), title="Not possible", print_exception=False) from found
    except (ValueError, NotImplementedError) as found:
        raise error(sentence(str(found)), title="Not possible", print_exception=False) from found


def sentence(text: str) -> str:
    """One line, inert, of bounded length, that begins with a capital."""
    line = printable(" ".join(text.split()))
    line = line if len(line) <= MOST else line[: MOST - 3] + "..."
    return line[:1].upper() + line[1:]
