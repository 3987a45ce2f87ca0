"""The checks of `clipguide doctor`."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import clipguide
from clipguide.cli.mistakes import explain
from clipguide.cli.quiet import quiet_libraries
from clipguide.files import sha256_file

STARTER = Path(clipguide.__file__).parent / "assets" / "starter"
SUMS = "SHA256SUMS"


@dataclass(frozen=True)
class Check:
    """One line of the report. `ok` None: nothing that could be wrong, or optional and absent."""

    name: str
    ok: bool | None
    detail: str


def checkup(*, run_models: bool = True) -> list[Check]:
    """Versions, devices, extras, memory and disk, the starter's files, and what runs."""
    checks = [*_packages(), _devices(), *_extras(), _memory(), _disk()]
    checks.append(starter_files(STARTER))
    if run_models and checks[-1].ok:
        quiet_libraries()
        checks += [_works("score", _try_scoring), _works("generate", _try_generating)]
    return checks


def starter_files(folder: Path) -> Check:
    """Whether every file of the bundled model is there and has the hash listed in SHA256SUMS."""
    name = "starter model"
    if not (folder / SUMS).is_file():
        return Check(name, False, f"{folder / SUMS} is missing: install clipguide again")
    lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    bad = [file for hash_, file in map(str.split, lines) if not _has_hash(folder / file, hash_)]
    if bad:
        return Check(name, False, f"{', '.join(bad)}: missing or changed; install clipguide again")
    return Check(name, True, f"{len(lines)} files, every sha256 as listed")


def _has_hash(file: Path, expected: str) -> bool:
    return file.is_file() and sha256_file(file) == expected


def _packages() -> Iterator[Check]:
    yield Check("clipguide", True, clipguide.__version__)
    for name in ("torch", "torchvision", "diffusers", "transformers", "open_clip_torch", "pillow"):
        yield _package(name)


def _package(name: str) -> Check:
    try:
        return Check(name, True, version(name))
    except PackageNotFoundError:
        return Check(name, False, f"not installed: pip install {name}")


def _devices() -> Check:
    import torch

    from clipguide.generation.models import available_devices

    names = [f"cpu ({torch.get_num_threads()} threads)", *available_devices()[1:]]
    return Check("devices", True, ", ".join(names))


def _extras() -> Iterator[Check]:
    """The optional extras of the installed package, as its own metadata lists them."""
    needed: dict[str, list[str]] = {}
    for line in _requirements():
        if match := re.match(r"([\w.-]+).*extra == ['\"]([\w-]+)['\"]", line):
            needed.setdefault(match[2], []).append(match[1])
    for extra, packages in needed.items():
        missing = [name for name in packages if not _package(name).ok]
        detail = f"missing {', '.join(missing)}: pip install 'clipguide[{extra}]'"
        yield Check(f"extra {extra}", None if missing else True, detail if missing else "installed")


def _requirements() -> list[str]:
    try:
        return requires("clipguide") or []
    except PackageNotFoundError:  # run from a checkout that is not installed
        return []


def _memory() -> Check:
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return Check("memory", None, "not known on this system")
    return Check("memory", None, f"{free / 2**30:.1f} GiB free")


def _disk() -> Check:
    usage = shutil.disk_usage(Path.cwd())
    return Check("disk", None, f"{usage.free / 2**30:.1f} GiB free here")


def _works(name: str, attempt: Callable[[], str]) -> Check:
    try:
        return Check(name, True, attempt())
    except Exception as error:  # whatever it is, it belongs in the report
        return Check(name, False, explain(error)[0])


def _try_scoring() -> str:
    from PIL import Image

    from clipguide.clip.loading import load_scorer

    value = float(load_scorer("starter").score([Image.new("RGB", (64, 64), "red")], "a red star"))
    return f"the starter's CLIP gives {value:.3f} for a red square and 'a red star'"


def _try_generating() -> str:
    from clipguide.generation.models import load_models
    from clipguide.generation.sampling import ImageGenerator, ImageRequest
    from clipguide.generation.settings import settings_for

    guidance = {"strength": 1.0, "window": [0.0, 1.0]}
    given = {"steps": 2, "judge": None, "search": None, "guidance": guidance}
    settings = settings_for("starter", given)
    models = load_models(settings)
    models.pipe.set_progress_bar_config(disable=True)
    request = ImageRequest("a red star left of a blue ring", 0)
    ((made,),) = ImageGenerator(models, settings).generate([request])
    return f"a guided picture of {made.image.width} pixels in 2 steps, {made.seconds:.1f} s"
