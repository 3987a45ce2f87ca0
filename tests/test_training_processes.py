"""Several processes are one process; half precision; blocks run twice; curves."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate.state import PartialState
from conftest import Outcome
from safetensors.torch import load_file
from tiny_training import toy_run
from torch import Tensor

from clipguide.training.clip_run import ClipRun
from clipguide.training.processes import Processes
from clipguide.training.run_files import HISTORY, RESULTS, STATE
from clipguide.training.unfreeze import set_training

LIVE = {"unfreeze_image": 1, "unfreeze_text": 1, "backbone_rate": 1.0}


def prepare(toys: Path, output: Path, *more: str, **train: object) -> ClipRun:
    """Without dropout, whose draws depend on how a batch is cut."""
    return toy_run(toys, output, "model.dropout=0.0", *more, **train)


def together(count: int, work: Callable[[int], None]) -> None:
    """Do some work in `count` processes that know each other as accelerate's launcher has it."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    children: list[int] = []
    for rank in range(count):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count,
                         "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}  # fmt: skip
                os.environ.update({name: str(value) for name, value in names.items()})
                os.environ["MASTER_ADDR"] = "localhost"
                PartialState._reset_state()
                work(rank)
                code = 0
            except BaseException as error:
                sys.__stderr__.write(f"process {rank}: {error!r}\n")
            finally:
                os._exit(code)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes == [0] * count


# --- several processes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "infonce", "hard_negatives": 1, "captions_per_image": 2},
        {"loss": "sigmoid", "chunk": 3, "views": 2},
        {"loss": "soft", **LIVE, "prefix_cache": "float32", "gradient_checkpointing": True},
        {"loss": "infonce", **LIVE, "part": 2, "ema_decay": 0.5},
    ],
    ids=["wrong captions", "sigmoid", "kept states", "live"],
)
def test_two_processes_are_one(toys: Path, tmp_path: Path, settings: dict[str, object]) -> None:
    """Batches of 5, 5 and 2 of 12 pictures: shares that do not divide are among them."""
    prepare(toys, tmp_path / "one", **settings).train()

    def work(rank: int) -> None:
        run = prepare(toys, tmp_path / "two", **settings)
        assert (run.processes.rank, run.processes.count) == (rank, 2)
        run.train()
        run.processes.close()

    together(2, work)
    one, two = (load_file(tmp_path / name / STATE) for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name in (n for n in one if n.startswith(("parameter.", "average."))):
        if not name.endswith("key.bias"):  # no gradient but rounding, which Adam makes large
            assert torch.allclose(one[name], two[name], rtol=1e-4, atol=2e-5), name
    histories = [json.loads((tmp_path / name / HISTORY).read_text()) for name in ("one", "two")]
    for epoch, figures in histories[0].items():
        assert histories[1][epoch]["loss"] == pytest.approx(figures["loss"], abs=1e-4)
        assert histories[1][epoch]["text_to_image"] == figures["text_to_image"]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7])
def test_the_gradient_through_gathered_rows_is_that_of_all(tmp_path: Path, count: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    rows = torch.randn(count, 4, generator=generator, dtype=torch.float64)

    def loss(vectors: Tensor) -> Tensor:
        return (vectors @ vectors.T).logsumexp(dim=1).sum()

    (expected,) = torch.autograd.grad(loss(rows @ weight), weight)

    def work(rank: int) -> None:
        processes = Processes()
        found = processes.gather(processes.share(rows) @ weight, count)
        assert torch.equal(found, rows @ weight) or torch.allclose(found, rows @ weight, atol=1e-14)
        loss(found).backward()
        processes.average([weight.grad])
        assert torch.allclose(weight.grad, expected, atol=1e-12)
        (tmp_path / str(rank)).touch()
        processes.close()

    together(2, work)
    assert len([*tmp_path.iterdir()]) == 2


def test_a_whole_backbone_with_batch_normalisation_is_refused(toys: Path, tmp_path: Path) -> None:
    def work(rank: int) -> None:
        with pytest.raises(ValueError, match="got 2 processes for a backbone whose batch"):
            prepare(toys, tmp_path, unfreeze_image=-1)

    together(2, work)


# --- precision -----------------------------------------------------------------------------------


def test_encoders_compute_in_the_precision_and_weights_stay(toys: Path, tmp_path: Path) -> None:
    run = prepare(toys, tmp_path, **LIVE, precision="bfloat16")
    kinds: list[torch.dtype] = []
    run.model.text_head.projection.register_forward_hook(lambda *a: kinds.append(a[2].dtype))
    losses = run.loss(0, torch.Generator().manual_seed(0))
    assert kinds == [torch.bfloat16]
    assert losses["loss"].dtype == torch.float32
    exact = prepare(toys, tmp_path / "exact", **LIVE)
    expected = exact.loss(0, torch.Generator().manual_seed(0))["loss"]
    assert losses["loss"].item() == pytest.approx(expected.item(), abs=0.2)
    assert losses["loss"].item() != expected.item()
    run.train()
    state = load_file(tmp_path / STATE)
    assert {value.dtype for key, value in state.items() if key.startswith("parameter")} == {
        torch.float32
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train.precision=float16", "got train.precision float16 on the CPU, expected bfloat16"),
        ("train.precision=half", "got train.precision 'half', expected one of ['float32'"),
        ("device=cuda", "got device 'cuda', expected one of ['cpu', 'auto']"),
        ("train={gradient_checkpointing=true, unfreeze_image=-1}", "whose batch normalisation"),
    ],
)
def test_a_mistake_is_one_line(
    toys: Path, tmp_path: Path, cli: Callable[..., Outcome], change: str, message: str
) -> None:
    outcome = cli("train", toys / "toy.toml", "--set", f"output={tmp_path}", "--set", change)
    assert outcome.code == 2
    assert message in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1


def test_a_precision_of_the_launcher_that_is_not_the_configurations_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.raises(ValueError, match="got bf16 from accelerate, expected it as train"):
        Processes()
    assert Processes(precision="bfloat16").main


# --- memory --------------------------------------------------------------------------------------


def test_blocks_that_run_twice_give_the_same_gradient(toys: Path, tmp_path: Path) -> None:
    """With dropout in the text backbone, which trains as a whole."""
    settings = {"unfreeze_image": 2, "unfreeze_text": -1}
    found: list[dict[str, Tensor | None]] = []
    for name, on in (("plain", False), ("twice", True)):
        run = prepare(toys, tmp_path / name, **settings, gradient_checkpointing=on)
        set_training(run.model, run.config.train)
        passes: list[int] = []
        part = run.model.text.model.encoder.layer[0].attention
        part.register_forward_hook(lambda *_, seen=passes: seen.append(1))
        run.loss(0, torch.Generator().manual_seed(0))["loss"].backward()
        assert len(passes) == (2 if on else 1)
        found.append({name: value.grad for name, value in run.model.named_parameters()})
    for name, gradient in found[0].items():
        other = found[1][name]
        assert (gradient is None) == (other is None), name
        assert gradient is None or torch.allclose(gradient, other, rtol=1e-5, atol=1e-7), name


# --- TensorBoard ---------------------------------------------------------------------------------


def test_without_its_package_tensorboard_is_refused(
    toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    for name in [key for key in sys.modules if key.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ValueError, match=r"pip install 'clipguide\[tensorboard\]'"):
        prepare(toys, tmp_path, "tensorboard=true")


def test_curves_of_a_resumed_run_are_those_of_one_run(toys: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra clipguide[tensorboard] is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    class Stop(Exception):
        pass

    def stop(step: int, _steps: int, _loss: float) -> None:
        if step == 6:
            raise Stop

    def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
        found = EventAccumulator(str(folder / "tensorboard")).Reload()
        tags = found.Tags()["scalars"]
        return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in tags}

    prepare(toys, tmp_path / "whole", "tensorboard=true").train()
    with pytest.raises(Stop):
        prepare(toys, tmp_path / "killed", "tensorboard=true").train(on_step=stop)
    prepare(toys, tmp_path / "killed", "tensorboard=true").train(resume=True)
    whole = curves(tmp_path / "whole")
    assert [step for step, _ in whole["step/loss"]] == [*range(1, 10)]
    assert {"step/rate", "step/scale", "epoch/text_to_image/R@1"} <= set(whole)
    assert curves(tmp_path / "killed") == whole
    assert not (tmp_path / "whole" / RESULTS).read_text().count("tensorboard")
