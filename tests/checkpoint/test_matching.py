"""A complete model loads from a checkpoint of its training, and nothing else fits it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from crafted import equal
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import Tensor, nn

from care_mm.checkpoint.matching import Match, is_loadable, load_model
from care_mm.checkpoint.reading import read_checkpoint, state_dict_of
from care_mm.errors import InputError

State = dict[str, Tensor]


MATCHING = {"weight": torch.ones(2, 3), "bias": torch.ones(2)}


def test_match_names_every_kind_of_difference() -> None:
    state = {"weight": torch.ones(3, 2), "gamma": torch.tensor([1.0, torch.nan])}
    match = Match.compare(MATCHING, state, finite=True)
    assert match == Match(2, ("bias",), ("gamma",), ("weight",), ("gamma",))
    with pytest.raises(InputError, match=r"x: 1 tensors missing \(the model has 2\).*'bias'"):
        match.refuse("x")
    Match.compare(MATCHING, dict(MATCHING), finite=True).refuse("x")


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        (torch.float16, torch.float32, True),
        (torch.float32, torch.int64, True),
        (torch.int32, torch.int64, True),
        (torch.int64, torch.float32, False),
        (torch.complex64, torch.float32, False),
        (torch.complex64, torch.int64, False),
    ],
)
def test_numbers_of_another_kind_are_not_loadable(
    source: torch.dtype, target: torch.dtype, expected: bool
) -> None:
    first, second = torch.zeros(2, dtype=source), torch.zeros(2, dtype=target)
    assert is_loadable(first, second) is expected
    assert not is_loadable(first, second[:1])


def copied(module: nn.Module) -> State:
    return {key: value.clone() for key, value in module.state_dict().items()}


class Toy(BaseModel):
    """The smallest model that a Runner trains."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 1)

    def forward(self, x: Tensor, mode: str = "tensor") -> dict[str, Tensor] | Tensor:
        out = self.fc(torch.stack(list(x)) if isinstance(x, list | tuple) else x)
        return {"loss": out.square().mean()} if mode == "loss" else out


@pytest.fixture(scope="module")
def runner_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that a Runner wrote: optimizer, schedulers, message hub, meta."""
    folder = tmp_path_factory.mktemp("runner")
    data = [{"x": torch.rand(2)} for _ in range(4)]
    runner = Runner(
        model=Toy(),
        work_dir=str(folder),
        experiment_name=folder.name,
        train_dataloader=torch.utils.data.DataLoader(data, batch_size=2),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type="AdamW", lr=0.1)),
        param_scheduler=dict(type="LinearLR", start_factor=0.1, by_epoch=False, end=2),
        default_hooks=dict(logger=dict(type="LoggerHook", interval=1)),
    )
    runner.train()
    return folder / "epoch_1.pth"


def test_checkpoint_of_a_runner_is_readable(runner_checkpoint: Path) -> None:
    content = read_checkpoint(runner_checkpoint)
    assert content["meta"]["epoch"] == 1
    assert set(content) >= {"state_dict", "optimizer", "param_schedulers", "message_hub"}
    assert set(state_dict_of(content, runner_checkpoint)) == {"fc.weight", "fc.bias"}
    losses = content["message_hub"]["log_scalars"]["train/loss"]
    assert isinstance(losses, HistoryBuffer)
    assert len(losses.data[0]) == 2
    assert losses.statistics("mean") == pytest.approx(losses.mean())


def test_checkpoint_of_a_runner_loads_into_its_model(runner_checkpoint: Path) -> None:
    model = Toy()
    meta = load_model(model, runner_checkpoint)
    assert meta["epoch"] == 1
    assert equal(model.state_dict(), read_checkpoint(runner_checkpoint)["state_dict"])


@pytest.mark.parametrize(
    ("state", "match"),
    [
        ({"fc.weight": torch.zeros(1, 2)}, "1 tensors missing.*'fc.bias'"),
        (Toy().state_dict() | {"neck.weight": torch.zeros(1)}, "left over.*'neck.weight'"),
        (Toy().state_dict() | {"fc.bias": torch.zeros(3)}, "another shape.*'fc.bias'"),
    ],
)
def test_weights_that_do_not_fit_a_model_are_refused(
    state: State, match: str, tmp_path: Path
) -> None:
    torch.save({"state_dict": state}, tmp_path / "bad.pth")
    model = Toy()
    before = copied(model)
    with pytest.raises(InputError, match=match):
        load_model(model, tmp_path / "bad.pth")
    assert equal(model.state_dict(), before)


def test_partial_loading_keeps_the_rest_and_lists_it(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    state = {"fc.weight": torch.full((1, 2), 3.0), "fc.bias": torch.zeros(3), "x": torch.zeros(1)}
    torch.save({"state_dict": state}, tmp_path / "part.pth")
    model = Toy()
    bias = copied(model)["fc.bias"]
    load_model(model, tmp_path / "part.pth", allow_partial=True)
    assert model.fc.weight.tolist() == [[3, 3]] and torch.equal(model.fc.bias, bias)
    said = capsys.readouterr()
    assert f"1 of 2 tensors loaded from {tmp_path / 'part.pth'}" in said.out + said.err
    assert "1 stay random: fc.bias" in said.out + said.err
    assert "1 unused: x" in said.out + said.err


def test_partial_loading_refuses_a_file_of_which_nothing_fits(tmp_path: Path) -> None:
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="does not fit the config's model"):
        load_model(Toy(), tmp_path / "other.pth", allow_partial=True)
