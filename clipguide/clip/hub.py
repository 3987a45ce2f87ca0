"""A saved model's folder by name, there or fetched from the Hub; and its files uploaded."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from clipguide.clip.model_folder import check_folder, check_weights
from clipguide.clip.refusals import refusal

SETTINGS = ("*.json", "*.txt", "*.model")
WEIGHTS = ("model.safetensors", "model-*.safetensors")
"""Files of a transformers model that are fetched: settings, vocabularies, safetensors; no code,
no pickles."""
NO_CODE = {"trust_remote_code": False, "local_files_only": True}
"""Keywords of every `from_pretrained`: without the first, transformers asks whether to run code."""
INNER = "*/*"
"""Folders within a repository, which no model of transformers needs."""


def model_folder(name: str, source: str, *, weights: bool = True) -> Path:
    """The folder of a transformers model, checked (see `clipguide.clip.model_folder`).

    Args:
        name: what the user called it, for messages.
        source: a folder (~ is the home), or OWNER/NAME on the Hub, fetched unless it is cached.
        weights: whether its weights are needed; else its settings and vocabulary are enough.

    Raises:
        ValueError: no such folder, or it cannot be fetched: the cause in one line; no safetensors;
            settings that lead elsewhere.
    """
    place = Path(source).expanduser()
    if not place.is_dir():
        if source.startswith(("/", ".", "~")):
            raise ValueError(f"{name}: got no folder {source}, expected a saved model")
        place = fetch(name, source, (*SETTINGS, *(WEIGHTS if weights else ())), INNER)
    check_folder(name, place)
    if weights:
        check_weights(name, place)
    return place


def fetch(name: str, repository: str, patterns: Sequence[str], ignore: str | None = None) -> Path:
    """A repository's files of these patterns in the Hub's cache; those in `ignore` are left out.

    Raises:
        ValueError: the cause in one line: no network, no such repository, terms to accept ...
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(repository, allow_patterns=[*patterns], ignore_patterns=ignore)
        )
    except Exception as error:  # whatever the network and the hub client raise
        raise refusal(name, error) from error


def push(
    repository: str, save: Callable[[Path], None], *, private: bool, kind: str = "model"
) -> str:
    """Upload what `save` writes into a folder, as the user who is logged in at the Hub.

    Args:
        repository: "USER/NAME", made when it is not there.
        save: writes the files.
        private: whether others cannot see a new repository.
        kind: "model" or "space"; of a Space that is new, one for Gradio.

    Returns:
        The address of the commit.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    sdk = "gradio" if kind == "space" else None
    api.create_repo(repository, private=private, exist_ok=True, repo_type=kind, space_sdk=sdk)
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder))
        commit = api.upload_folder(repo_id=repository, folder_path=folder, repo_type=kind)
    return str(commit.commit_url)
