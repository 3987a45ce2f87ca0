"""Puts a captioner of the starter's scenes into the package, in half precision, and lists its hash.

python -m training.captioners.bundle RUN captioner     (what starter_captioner.toml made)
python -m training.captioners.bundle RUN questions     (what starter_questions.toml made)
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from clipguide.cli.checkup import STARTER, SUMS
from clipguide.files import sha256_file, write_text
from clipguide.language.captioner_files import load_captioner_folder, save_captioner
from clipguide.training.run_files import RESULTS, flat_figures


def bundle(run: Path, folder: Path) -> None:
    """Copy a trained captioner, its weights in half precision.

    Args:
        run: the output folder of its training.
        folder: where it shall be; of a former one the files are written over.

    Raises:
        ValueError: `run` holds no captioner.
    """
    results = json.loads((run / RESULTS).read_text(encoding="utf-8"))
    figures = flat_figures({name: results[name] for name in ("dev", "test")})
    captioner = load_captioner_folder(str(run), run)
    save_captioner(captioner, folder, figures, dtype=torch.float16)


def write_sums(starter: Path) -> None:
    """List the hash of every file of the starter, as `sha256sum` does."""
    files = sorted(file for file in starter.rglob("*") if file.is_file() and file.name != SUMS)
    lines = [f"{sha256_file(file)}  {file.relative_to(starter).as_posix()}\n" for file in files]
    write_text(starter / SUMS, "".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("name", choices=("captioner", "questions"))
    given = parser.parse_args()
    bundle(given.run, STARTER / given.name)
    write_sums(STARTER)


if __name__ == "__main__":
    main()
