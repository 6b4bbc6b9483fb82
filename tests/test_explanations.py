"""Known errors of libraries become one line for the user; all others stay as they are."""

from __future__ import annotations

from pathlib import Path

import pytest
from mmengine.registry import Registry

from care_mm.cli import command, text_table
from care_mm.errors import (
    InputError,
    did_you_mean,
    explain,
    explained,
    one_line,
    refuse_existing,
)

PARTS = Registry("parts")


@PARTS.register_module()
class Picky:
    """A class that accepts no size but 3."""

    def __init__(self, size: int) -> None:
        if size != 3:
            raise AssertionError(f"size is {size},\n not 3")


def raised(function, *args) -> Exception:
    with pytest.raises(Exception) as caught:
        function(*args)
    return caught.value


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (dict(type="Picky", size=4), "size is 4, not 3"),
        (dict(type="Picky", sise=3), "Picky.__init__() got an unexpected keyword argument 'sise'"),
        (dict(type="Pick"), "'Pick is not in the "),
        (dict(size=3), '\'`cfg` or `default_args` must contain the key "type"'),
    ],
)
def test_errors_of_what_a_config_builds_are_explained(config: dict, line: str) -> None:
    assert explain(raised(PARTS.build, config)).startswith(line)


def test_the_same_error_elsewhere_is_not_explained() -> None:
    assert explain(raised(Picky, 4)) is None
    with pytest.raises(AssertionError), explained():
        Picky(4)


def test_death_of_a_loaders_worker_gets_advice() -> None:
    message = "DataLoader worker (pid 7) is killed by signal: Killed."
    assert explain(RuntimeError(message)).startswith(f"{message}: out of memory? Use fewer workers")
    assert explain(RuntimeError("something else")) is None


def test_bad_input_passes_unchanged() -> None:
    error = InputError("config x.py: no such file")
    with pytest.raises(InputError) as caught, explained():
        raise error
    assert caught.value is error


def test_commands_print_explained_errors_and_raise_others(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    @command
    def main(argv: list) -> None:
        if not argv:
            raise RuntimeError("a bug")
        PARTS.build(dict(type="Picky", size=argv[0]))

    with pytest.raises(SystemExit) as stop:
        main([4])
    assert stop.value.code == 2
    assert capsys.readouterr().err.endswith("error: size is 4, not 3\n")
    with pytest.raises(RuntimeError):
        main([])
    monkeypatch.setenv("CARE_MM_TRACEBACK", "1")
    with pytest.raises(AssertionError):
        main([4])


def test_one_line() -> None:
    assert one_line("a\n  b ") == "a b"
    assert one_line(ValueError()) == "ValueError"
    assert one_line("abcdef", limit=3) == "abc"


def test_did_you_mean() -> None:
    assert did_you_mean("trian_cfg", ["train_cfg", "model"]) == "; did you mean 'train_cfg'?"
    assert did_you_mean("trian", ["train"], lambda name: f"{name}.py") == "; did you mean train.py?"
    assert did_you_mean("x", ["train_cfg"]) == ""


def test_existing_files_and_dangling_links_are_refused(tmp_path: Path) -> None:
    refuse_existing(tmp_path / "new")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"^--out .*link: exists already, choose another name$"):
        refuse_existing(tmp_path / "link", "--out")


def test_text_table() -> None:
    rows = [["name", "ms", ""], ["a", "1.25", ""], ["long", "10", ""]]
    assert text_table(rows).splitlines() == ["name    ms", "a     1.25", "long    10"]
    assert text_table(rows, markdown=True).splitlines() == [
        "| name | ms |",
        "| --- | --- |",
        "| a | 1.25 |",
        "| long | 10 |",
    ]
