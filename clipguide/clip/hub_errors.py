"""What an error of the Hub's client means, in one sentence that says what to do."""

from __future__ import annotations

import errno
from collections.abc import Sequence

_ABSENT = "no folder of this name, it is not in the Hub's cache, and "

KINDS = {
    "GatedRepoError": "its terms must be accepted on its page at the Hub first; then `hf auth "
    "login`",
    "DisabledRepoError": "the Hub has closed this repository: take another model",
    "RepositoryNotFoundError": "no folder of this name, and the Hub has no such repository: check "
    "the name; a private one needs `hf auth login`",
    "RevisionNotFoundError": "the repository has no such revision: check its branches and tags on "
    "its page at the Hub",
    "HFValidationError": "neither a folder that is there nor a name OWNER/NAME on the Hub",
    "OfflineModeIsEnabled": f"{_ABSENT}HF_HUB_OFFLINE forbids to fetch it: unset HF_HUB_OFFLINE, "
    "or pass the folder of a copy",
    "RemoteEntryNotFoundError": "the repository lacks a file that this model needs: take another "
    "model or revision",
    "ProxyError": "the proxy does not let the Hub through: check HTTPS_PROXY",
    "ConnectError": f"{_ABSENT}the Hub cannot be reached: check the network, or pass the folder of "
    "a copy",
    "ConnectionError": f"{_ABSENT}the Hub cannot be reached: check the network, or pass the folder "
    "of a copy",
    "TimeoutException": "the Hub does not answer: check the network, or run it again later",
    "Timeout": "the Hub does not answer: check the network, or run it again later",
    "NetworkError": "the connection to the Hub broke: run it again, what was fetched is kept",
    "RemoteProtocolError": "the connection to the Hub broke: run it again, what was fetched is "
    "kept",
}
"""Class of an error -> what it means; the first that fits is said."""

STATUS = {
    401: "the Hub does not accept the token: `hf auth login`, or unset HF_TOKEN",
    403: "the Hub does not let this token read it: `hf auth login` with one that may",
    429: "the Hub has had too many requests from here: run it again later, or `hf auth login`",
}
"""Status of the Hub's answer -> what it means, where the class of the error says less."""

LAST = {
    "LocalEntryNotFoundError": f"{_ABSENT}the Hub did not give it: check the network, or pass the "
    "folder of a copy",
    "EntryNotFoundError": KINDS["RemoteEntryNotFoundError"],
}
"""Classes that say less than any other."""

MACHINE = {
    errno.ENOSPC: "no space left on the disk: free some, or set HF_HOME to a folder on another",
    errno.EDQUOT: "the disk's quota is used up: free some, or set HF_HOME to a folder on another",
    errno.EROFS: "the folder is read-only: set HF_HOME to a folder that can be written",
}
"""Number of an error of this machine -> what it means."""


def hub_cause(errors: Sequence[BaseException]) -> str | None:
    """What a chain of errors, outermost first, means; None where the Hub has no part in it."""
    for error in errors:
        if isinstance(error, OSError) and error.errno in MACHINE:
            return MACHINE[error.errno]
    classes = {kind.__name__ for error in errors for kind in type(error).__mro__}
    for kind, meaning in KINDS.items():
        if kind in classes:
            return meaning
    status = next(filter(None, map(_status, errors)), None)
    if status in STATUS:
        return STATUS[status]
    if status is not None:
        return f"the Hub answers with an error ({status}): run it again later"
    return next((meaning for kind, meaning in LAST.items() if kind in classes), None)


def _status(error: BaseException) -> int | None:
    """Of the answer that an error of the client holds."""
    found: object = getattr(getattr(error, "response", None), "status_code", None)
    return found if isinstance(found, int) else None
