from collections.abc import Sequence
from typing import Any

class SavedResult(dict[str, Any]):
    def __init__(self, filename: str, subfolder: str, type: Any) -> None: ...

class SavedImages:
    def __init__(self, results: Sequence[SavedResult], is_animated: bool = ...) -> None: ...

class PreviewText:
    def __init__(self, value: str) -> None: ...
