"""The authors' keys and ours convert into each other; other keys are refused."""

from __future__ import annotations

import golden
import pytest
import torch

from care_mm.checkpoint.names import convert_official, is_official, is_ours, to_official
from care_mm.convert import detect_arch
from care_mm.errors import InputError


@pytest.mark.parametrize(
    "key", ["stem.2.weight", "stages.0.blocks.0.attn.qkv.weight", "head.fc.weight_g", "backbone.x"]
)
def test_unknown_key_is_refused_by_name(key: str) -> None:
    with pytest.raises(InputError, match=f"key '{key}'"):
        convert_official({"stem.0.weight": torch.ones(1), key: torch.ones(1)})


def test_conversion_renames_and_keeps_values() -> None:
    official = {
        "stem.1.running_mean": torch.rand(3),
        "stages.1.downsample.1.bias": torch.rand(3),
        "stages.2.blocks.7.token_mixer.qk.weight": torch.rand(3),
        "stages.2.blocks.7.gamma": torch.rand(3),
        "dist_head.fc.bias": torch.rand(3),
    }
    assert convert_official(official) == {
        "backbone.stem.norm.running_mean": official["stem.1.running_mean"],
        "backbone.stages.1.downsample.conv.bias": official["stages.1.downsample.1.bias"],
        "backbone.stages.2.blocks.7.token_mixer.global_branch.qk.weight": official[
            "stages.2.blocks.7.token_mixer.qk.weight"
        ],
        "backbone.stages.2.blocks.7.gamma": official["stages.2.blocks.7.gamma"],
        "head.distill.fc.bias": official["dist_head.fc.bias"],
    }


@pytest.mark.parametrize("arch", golden.ARCHS)
def test_converting_back_gives_the_same_names_and_tensors(arch: str) -> None:
    official = golden.single(arch)
    ours = convert_official(official)
    restored = to_official(ours)
    assert list(restored) == list(official)
    assert all(restored[key] is official[key] for key in official)
    assert len(set(ours)) == len(official)
    assert is_official(official) and not is_ours(official)
    assert is_ours(ours) and not is_official(ours)


@pytest.mark.parametrize(
    "key", ["backbone.out_norms.0.weight", "neck.conv.weight", "stem.0.weight"]
)
def test_key_without_an_authors_name_is_refused(key: str) -> None:
    with pytest.raises(InputError, match=f"key '{key}' has no name"):
        to_official({"backbone.stem.conv.weight": torch.ones(1), key: torch.ones(1)})


# Other networks share some of these keys with us or the authors.
RESNET = {"conv1.weight", "bn1.running_mean", "layer1.0.conv1.weight", "fc.weight", "fc.bias"}
CONVNEXT = {
    *("stem.0.weight", "stem.0.bias", "stem.1.weight", "stem.1.bias"),
    *(f"stages.1.downsample.{i}.{leaf}" for i in (0, 1) for leaf in ("weight", "bias")),
    *(f"stages.1.blocks.{i}.gamma" for i in range(9)),
    *(f"stages.1.blocks.{i}.{name}.weight" for i in range(9) for name in ("conv_dw", "norm")),
    *(f"stages.1.blocks.{i}.mlp.fc{j}.bias" for i in range(9) for j in (1, 2)),
    *("head.norm.weight", "head.norm.bias", "head.fc.weight", "head.fc.bias"),
}


@pytest.mark.parametrize("keys", [RESNET, CONVNEXT, set()], ids=["resnet", "convnext", "nothing"])
def test_other_networks_are_neither_ours_nor_the_authors(keys: set[str]) -> None:
    state = {key: torch.ones(1) for key in keys}
    assert not is_official(state) and not is_ours(state)
    with pytest.raises(InputError, match="not the weights of a CARE classifier"):
        detect_arch(state)
