"""The pack as a folder: its entry point, its workflows in both forms, its help pages."""

from __future__ import annotations

import asyncio
import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from comfy_models import CHECKOUT, missing, only_with_comfyui, start
from PIL import Image

PACK = CHECKOUT / "comfyui"
if not missing():
    start()


def test_without_comfyui_the_pack_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("comfyui")
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match="put this folder into the custom_nodes"):
        asyncio.run(module.comfy_entrypoint())


def nodes_of(workflow: Path) -> dict[str, Any]:
    return json.loads(workflow.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", sorted(p.stem for p in (PACK / "api_workflows").glob("*.json")))
def test_both_forms_of_a_workflow_are_one_graph_and_it_has_a_thumbnail(name: str) -> None:
    api = nodes_of(PACK / "api_workflows" / f"{name}.json")
    page = nodes_of(PACK / "example_workflows" / f"{name}.json")
    by_id = {str(node["id"]): node for node in page["nodes"]}
    assert {i: node["class_type"] for i, node in api.items()} == {
        i: node["type"] for i, node in by_id.items()
    }
    wanted = {
        (source, slot, i, name)
        for i, node in api.items()
        for name, value in node["inputs"].items()
        if isinstance(value, list)
        for source, slot in [value]
    }
    found = {
        (str(source), slot, str(i), by_id[str(i)]["inputs"][place]["name"])
        for _, source, slot, i, place, _ in page["links"]
    }
    assert found == wanted
    with Image.open(PACK / "example_workflows" / f"{name}.jpg") as thumbnail:
        assert thumbnail.format == "JPEG"


def test_every_node_has_its_help_in_the_place_of_every_language() -> None:
    docs = PACK / "web" / "docs"
    source = "".join(path.read_text(encoding="utf-8") for path in PACK.glob("*.py"))
    names = sorted(folder.name for folder in docs.iterdir() if folder.is_dir())
    assert len(names) == source.count('node_id="Clipguide') == 13
    for name in names:
        assert f'node_id="{name}"' in source
        help_page = (docs / name / "en.md").read_text(encoding="utf-8")
        assert help_page == (docs / f"{name}.md").read_text(encoding="utf-8")


@only_with_comfyui
def test_the_nodes_of_the_pack_are_those_of_its_entry_point() -> None:
    extension = asyncio.run(importlib.import_module("comfyui").comfy_entrypoint())
    names = [node.GET_SCHEMA().node_id for node in asyncio.run(extension.get_node_list())]
    assert sorted(names) == sorted(f.name for f in (PACK / "web" / "docs").iterdir() if f.is_dir())


@only_with_comfyui
def test_without_clipguide_the_pack_has_no_nodes_and_says_what_to_type(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    module = importlib.import_module("comfyui")
    found = module.find_spec
    monkeypatch.setattr(module, "find_spec", lambda n: None if n == "clipguide" else found(n))
    extension = asyncio.run(module.comfy_entrypoint())
    assert asyncio.run(extension.get_node_list()) == []
    assert "-m pip install clipguide" in caplog.text
