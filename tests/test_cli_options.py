"""Values of ``--cfg-options``: what mmengine parses, with the spaces in texts kept."""

from __future__ import annotations

import argparse

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmengine.config import DictAction

from care_mm import cli


def options_of(*items: str) -> dict:
    parser = argparse.ArgumentParser()
    cli.add_config_options(parser)
    return parser.parse_args(["--cfg-options", *items]).cfg_options


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("my runs/x", "my runs/x"),
        (" a b ", "a b"),
        ("'quoted, text'", "quoted, text"),
        ("[a b, c d]", ["a b", "c d"]),
        ("a b,c", ["a b", "c"]),
        ("(ball, big cube)", ("ball", "big cube")),
        ("[(1, 2), [x y]]", [(1, 2), ["x y"]]),
        ("run (1", "run (1"),
        ("x=y", "x=y"),
        ("", ""),
    ],
)
def test_spaces_in_texts_are_kept(text: str, value: object) -> None:
    assert options_of(f"key={text}") == {"key": value}


scalars = st.one_of(
    st.integers().map(str),
    st.floats(allow_nan=False).map(str),
    st.sampled_from(["True", "false", "None", "text", "1e-3", "a/b.py"]),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, min_size=1).flatmap(
        lambda items: st.sampled_from([f"[{','.join(items)}]", f"({','.join(items)})"])
    ),
    max_leaves=8,
)


@given(values)
def test_values_without_spaces_are_what_mmengine_makes_of_them(text: str) -> None:
    assert cli.OptionAction.parse(text) == DictAction._parse_iterable(text)


def test_an_option_without_a_value_is_refused(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        options_of("work_dir")
    assert stop.value.code == 2
    assert "--cfg-options work_dir: is not of the form KEY=VALUE" in capsys.readouterr().err


def test_options_add_up() -> None:
    parser = argparse.ArgumentParser()
    cli.add_config_options(parser)
    arguments = ["--cfg-options", "a=1", "b=[]", "--cfg-options", "c=x y"]
    assert parser.parse_args(arguments).cfg_options == {"a": 1, "b": [], "c": "x y"}
