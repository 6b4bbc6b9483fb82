"""The pages of docs/: all in the index, no link to nowhere, and snippets that train."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import tool
import torch
from miniature import make_coco
from mmengine.config import Config

from care_mm import CARETransformer

ROOT = tool.TOOLS.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FINETUNE = (ROOT / "docs" / "finetune.md").read_text()


def test_index_has_every_page() -> None:
    linked = set(re.findall(r"\]\((\w+\.md)\)", (ROOT / "docs" / "README.md").read_text()))
    assert linked == {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert "(docs/README.md)" in PAGES[0].read_text()


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name) if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_frozen_stages_leave_what_the_page_says() -> None:
    rows = re.findall(r"^\| (-?\d) \| .* \| ([\d.]+)(?: M)? \|$", FINETUNE, flags=re.MULTILINE)
    assert [int(stages) for stages, _ in rows] == [-1, 0, 1, 2, 3, 4]
    for stages, millions in rows:
        backbone = CARETransformer("s1", frozen_stages=int(stages))
        trained = sum(p.numel() for p in backbone.parameters() if p.requires_grad)
        assert trained / 1e6 == pytest.approx(float(millions), abs=0.005)


def test_configs_of_the_fine_tuning_page_train(tmp_path: Path, monkeypatch) -> None:
    """All of them in one, each on top of the one before."""
    snippets = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", FINETUNE, flags=re.DOTALL)
    assert [name for name, _ in snippets] == ["gentle.py", "shorter.py", "careful.py", "watched.py"]
    base = str(ROOT / "configs" / "maskrcnn_care_s1_coco.py")
    for name, text in snippets:
        file = tmp_path / name
        file.write_text(text.replace("configs/maskrcnn_care_s1_coco.py", base))
        Config.fromfile(file)  # each on its own
        file.write_text(text.replace("configs/maskrcnn_care_s1_coco.py", base))
        base = str(file) if name != "watched.py" else base
    (tmp_path / "data").mkdir()
    make_coco(tmp_path / "data" / "coco", num_train=2, num_val=1)
    monkeypatch.chdir(tmp_path)
    options = (
        "train_dataloader.dataset.pipeline.2.scale=(64, 64)",
        "val_dataloader.dataset.pipeline.1.scale=(64, 64)",
        "train_dataloader.num_workers=0",
        "train_dataloader.persistent_workers=False",
        "val_dataloader.num_workers=0",
        "val_dataloader.persistent_workers=False",
        "model.backbone.init_cfg=None",
        "train_cfg.max_epochs=1",
    )
    tool.call("train", base, "--work-dir", "run", "--cfg-options", *options)
    assert (tmp_path / "run" / "report.html").is_file()
    content = torch.load(tmp_path / "run" / "epoch_1.pth", weights_only=False)
    rates = {group["initial_lr"] for group in content["optimizer"]["param_groups"]}
    assert rates == {5e-5, 5e-6}
    assert any(key.startswith("module.") for key in content["ema_state_dict"])
