"""What of clipguide's can be put on the Hub: custom pipelines, scorers, a Space with the page."""

from __future__ import annotations

import ast
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import clipguide
from clipguide.clip.latent_files import push_check, read_config
from clipguide.clip.latent_scorer import LatentScorer
from clipguide.clip.loading import load_scorer

LICENSE = "apache-2.0"
SPACE = "space"


@dataclass(frozen=True)
class Published:
    """What goes into a repository of the Hub.

    Attributes:
        kind: "model" or "space", as the Hub calls it.
        write: writes the files into a folder that is there and empty.
    """

    kind: str
    write: Callable[[Path], None]

    def listing(self, folder: Path) -> list[tuple[str, int]]:
        """(name, bytes) of every file that is written into `folder`, by name."""
        self.write(folder)
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        return [(file.relative_to(folder).as_posix(), file.stat().st_size) for file in files]


def publication(what: str) -> Published:
    """What is published under a name.

    Args:
        what: "space"; a .py file with one custom pipeline; or a folder of a scorer that
            `clipguide train` or `save_pretrained` wrote.

    Raises:
        ValueError: none of these, or a scorer that nobody else could load.
    """
    file = Path(what)
    if what == SPACE:
        return Published("space", _write_space)
    if file.suffix == ".py" and file.is_file():
        name = _pipeline_class(file)
        return Published("model", lambda folder: _write_pipeline(file, name, folder))
    if file.is_dir():
        config = read_config(file)
        if config is not None:
            push_check(config)
        scorer: Any = load_scorer(what)
        model = scorer if isinstance(scorer, LatentScorer) else scorer.model
        if not hasattr(model, "save_pretrained"):
            raise ValueError(f"{what}: got a CLIP of a library, expected one that was trained here")
        return Published("model", model.save_pretrained)
    raise ValueError(
        f"got {what!r}, expected {SPACE}, a .py file of a custom pipeline, or a scorer's folder"
    )


def _pipeline_class(file: Path) -> str:
    """The one class of a file that is a pipeline, read without running it."""
    tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
    names = [
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name.endswith(("Pipeline", "Blocks"))
    ]
    if len(names) != 1:
        raise ValueError(f"{file}: got {len(names)} pipeline classes, expected one")
    return names[0]


def _write_pipeline(file: Path, name: str, folder: Path) -> None:
    """`pipeline.py` and a card: the layout that `custom_pipeline="USER/NAME"` reads."""
    shutil.copyfile(file, folder / "pipeline.py")
    about = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    title, _, rest = about.partition("\n")
    (folder / "README.md").write_text(
        _CARD.format(license=LICENSE, title=title.strip(), name=name, rest=rest.strip()),
        encoding="utf-8",
    )


def _write_space(folder: Path) -> None:
    (folder / "app.py").write_text(_APP, encoding="utf-8")
    needed = f"clipguide[web]=={clipguide.__version__}\n"
    (folder / "requirements.txt").write_text(needed, encoding="utf-8")
    (folder / "README.md").write_text(_SPACE_CARD.format(license=LICENSE), encoding="utf-8")


_CARD = """---
license: {license}
library_name: diffusers
tags: [diffusers, clip, guidance, custom-pipeline]
---
# {title}

`{name}`, a custom pipeline of diffusers; needs `pip install clipguide`. Load it with
`custom_pipeline="USER/NAME"`, the name of this repository, and `trust_remote_code=True`.

{rest}
"""
_APP = '''"""clipguide in a browser, with its bundled starter model."""

from clipguide.generation.settings import settings_for
from clipguide.web import Site, Sources, build_page
from clipguide.web.page import launch_options

site = Site(settings_for("starter", {"device": "auto"}), Sources())
page = build_page(site)
page.launch(server_name="0.0.0.0", server_port=7860, **launch_options(site))
'''
_SPACE_CARD = """---
title: clipguide
emoji: 🧭
colorFrom: indigo
colorTo: gray
sdk: gradio
app_file: app.py
license: {license}
---
Pictures that follow their prompt, by CLIP: the page of `clipguide web` with the bundled starter.
"""
