from collections.abc import Sequence
from enum import Enum
from typing import Any

class Input:
    id: str
    def __init__(self, id: str, display_name: str | None = ..., **options: Any) -> None: ...

class Output:
    def __init__(
        self, id: str | None = ..., display_name: str | None = ..., **options: Any
    ) -> None: ...

class ComfyTypeIO:
    Input: type[Input]
    Output: type[Output]

class Boolean(ComfyTypeIO): ...
class Int(ComfyTypeIO): ...
class Float(ComfyTypeIO): ...
class String(ComfyTypeIO): ...
class Combo(ComfyTypeIO): ...
class Image(ComfyTypeIO): ...
class Mask(ComfyTypeIO): ...
class Latent(ComfyTypeIO): ...
class Conditioning(ComfyTypeIO): ...
class Vae(ComfyTypeIO): ...
class Model(ComfyTypeIO): ...

def Custom(io_type: str) -> type[ComfyTypeIO]: ...

class FolderType(str, Enum):
    output = "output"

class Hidden(str, Enum):
    prompt = "PROMPT"
    extra_pnginfo = "EXTRA_PNGINFO"

class HiddenHolder:
    prompt: Any
    extra_pnginfo: dict[str, Any] | None

class Schema:
    def __init__(
        self,
        node_id: str,
        display_name: str = ...,
        category: str = ...,
        inputs: Sequence[Input] = ...,
        outputs: Sequence[Output] = ...,
        hidden: Sequence[Hidden] = ...,
        description: str = ...,
        search_aliases: Sequence[str] = ...,
        is_output_node: bool = ...,
        not_idempotent: bool = ...,
    ) -> None: ...

class ComfyNode:
    hidden: HiddenHolder
    @classmethod
    def define_schema(cls) -> Schema: ...

class NodeOutput:
    def __init__(self, *args: Any, ui: Any = ...) -> None: ...
