"""Configs that do not inherit ours get the same hooks."""

from __future__ import annotations

from mmengine.config import Config

from care_mm import config_keys
from care_mm.engine.hooks import GUARDS, ensure_guards
from care_mm.engine.hooks.checkpoint import AtomicCheckpointHook


def test_plain_hook_of_a_foreign_config_becomes_ours() -> None:
    config = Config(dict(default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=5))))
    ensure_guards(config)
    assert config.default_hooks.checkpoint == dict(type=AtomicCheckpointHook.__name__, interval=5)
    assert {hook["type"] for hook in config.default_hooks.values()} == {
        guard.__name__ for guard in GUARDS.values()
    }


def test_hook_that_is_none_stays_off() -> None:
    config = Config(dict(default_hooks=dict(finite=None), custom_hooks=[dict(type="MyHook")]))
    ensure_guards(config)
    assert "finite" not in config.default_hooks


def test_every_guard_may_be_named_in_an_option() -> None:
    assert set(GUARDS) <= config_keys._DEFAULT_HOOKS
