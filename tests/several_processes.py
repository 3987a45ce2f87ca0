"""Commands in processes that know each other as accelerate's launcher has it, without its start."""

from __future__ import annotations

import os
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate.state import PartialState


def run_commands(
    count: int, command: list[object], folder: Path, before: Callable[[int], None] = lambda _: None
) -> list[int]:
    """Runs `clipguide COMMAND` in `count` forked processes; their exit codes.

    What process i prints is in `folder`/i.out and i.err; `before(i)` is called in it first.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    children = [_child(rank, count, port, command, folder, before) for rank in range(count)]
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def _child(
    rank: int,
    count: int,
    port: int,
    command: list[object],
    folder: Path,
    before: Callable[[int], None],
) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        for name, stream in (("out", 1), ("err", 2)):
            file = os.open(folder / f"{rank}.{name}", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
            os.dup2(file, stream)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count,
                 "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}  # fmt: skip
        os.environ.update({name: str(value) for name, value in names.items()})
        os.environ["MASTER_ADDR"] = "localhost"
        PartialState._reset_state()
        torch.set_num_threads(1)
        before(rank)
        from clipguide.cli import main

        main([str(part) for part in command])
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
