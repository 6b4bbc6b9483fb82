"""model-index.yml: an entry for every config of a full job, with the model's own figures."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from care_mm.complexity import build, count
from care_mm.config import load_config
from care_mm.tasks import default_shape

ROOT = Path(__file__).parents[1]
METAFILES = [
    yaml.safe_load((ROOT / path).read_text())
    for path in yaml.safe_load((ROOT / "model-index.yml").read_text())["Import"]
]
COLLECTIONS = [collection for metafile in METAFILES for collection in metafile["Collections"]]
MODELS = {model["Name"]: model for metafile in METAFILES for model in metafile["Models"]}
# ImageNet from the authors' release page, the others second-hand from the paper.
REPORTED = {
    "care_s0_imagenet": {"Top 1 Accuracy": 78.4},
    "care_s1_imagenet": {"Top 1 Accuracy": 80.1},
    "care_s2_imagenet": {"Top 1 Accuracy": 82.1},
    "maskrcnn_care_s1_coco": {"box AP": 40.7, "mask AP": 37.5},
    "semfpn_care_s1_ade20k": {"mIoU": 41.9},
}


def test_every_config_has_an_entry_and_no_other() -> None:
    assert set(MODELS) == {path.stem for path in (ROOT / "configs").glob("*.py")}
    assert sum(len(metafile["Models"]) for metafile in METAFILES) == len(MODELS)
    for name, model in MODELS.items():
        assert model["Config"] == f"configs/{name}.py"
        assert model["In Collection"] in [collection["Name"] for collection in COLLECTIONS]


def test_collections_link_the_paper_and_files_that_exist() -> None:
    for collection in COLLECTIONS:
        assert collection["Paper"]["URL"].endswith("arxiv.org/abs/2411.16170")
        assert (ROOT / collection["Code"]["URL"]).is_file()
        assert (ROOT / collection["README"]).is_file()


@pytest.mark.parametrize("name", MODELS)
def test_results_are_the_papers_and_labelled_so(name: str) -> None:
    metrics = {}
    for result in MODELS[name]["Results"]:
        assert result["Task"] and result["Dataset"]
        metrics |= result["Metrics"]
    assert metrics == REPORTED.get(name, {})
    assert ("Source of Results" in MODELS[name]["Metadata"]) is bool(metrics)


@pytest.mark.parametrize("name", MODELS)
def test_parameters_and_gmacs_are_those_of_the_config(name: str) -> None:
    config = load_config(ROOT / MODELS[name]["Config"])
    height, width = default_shape(config)
    total = count(build(config), (height, width)).sum()
    metadata = MODELS[name]["Metadata"]
    assert metadata["Input Size"] == f"{height}x{width} (HxW)"
    assert metadata["Parameters"] == total.parameters
    assert metadata["GMACs"] == pytest.approx(total.macs / 1e9, abs=5.1e-5)
