"""README, CHANGELOG and docs/: links, names and options exist, snippets run, plain English."""

from __future__ import annotations

import contextlib
import io
import re
from importlib import import_module
from pathlib import Path

import pytest
import tool
import torch
from miniature import make_coco
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from care_mm import CARETransformer
from care_mm.config import without_pretrained

ROOT = tool.TOOLS.parent
README = ROOT / "README.md"
PAGES = [README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
SOURCES = [
    file
    for folder in ("care_mm", "tools", "configs")
    for file in sorted((ROOT / folder).rglob("*"))
    if file.suffix in (".py", ".sh", ".html", ".yml")
]
FINETUNE = (ROOT / "docs" / "finetune.md").read_text()
FENCE = re.compile(r"^```.*?^```", flags=re.DOTALL | re.MULTILINE)
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)

# Links


def test_index_has_every_page() -> None:
    linked = set(re.findall(r"\]\((\w+\.md)\)", (ROOT / "docs" / "README.md").read_text()))
    assert linked == {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert "(docs/README.md)" in README.read_text()


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub forms them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_relative_links_and_anchors_resolve(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", page.read_text())):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name) if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


# Names and options


def exists(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    try:
        import_module(name)
    except ModuleNotFoundError:
        module, _, attribute = name.rpartition(".")
        return bool(module) and exists(module) and hasattr(import_module(module), attribute)
    return True


@every_page
def test_every_name_in_care_mm_exists(page: Path) -> None:
    for name in set(re.findall(r"\bcare_mm(?:\.[A-Za-z_]\w*)+", page.read_text())):
        assert exists(name), name


@every_page
def test_every_file_of_the_repository_that_a_page_names_exists(page: Path) -> None:
    paths = r"(?<![\w$./-])(?:care_mm|configs|docs|tests|tools)/[\w./*-]*\w"
    for path in set(re.findall(paths, page.read_text())):
        assert list(ROOT.glob(path)), path


# Options of the commands of pip, torchrun, Slurm, curl and the MM packages.
OTHERS = {
    "--help",
    "--kill-on-bad-exit",
    "--logdir",
    "--mode",
    "--no-build-isolation",
    "--no-cache-dir",
    "--no-deps",
    "--nproc_per_node",
    "--pairs",
    "--standalone",
    "--style",
}
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")
COMMAND = re.compile(r"(?<![\w$/])tools/(\w+)\.(?:py|sh)")
LAUNCHED = {"dist_train": "train", "slurm_train": "train", "dist_test": "test"}


@pytest.fixture(scope="module")
def usage() -> dict[str, str]:
    """Return what each command prints for ``--help``."""
    printed = {}
    for file in tool.TOOLS.glob("*.py"):
        output = io.StringIO()
        with contextlib.redirect_stdout(output), pytest.raises(SystemExit):
            tool.call(file.stem, "--help")
        printed[file.stem] = output.getvalue()
    return printed


def required(usage: str) -> set[str]:
    """Return the options outside the brackets of a usage line."""
    line, count = usage.split("\n\n")[0], 1
    while count:
        line, count = re.subn(r"\[[^\[\]]*\]", "", line)
    return set(OPTION.findall(line))


def commands(text: str) -> list[str]:
    """Return what a page sets as code: lines of code blocks, and spans in the text."""
    blocks = "".join(FENCE.findall(text)).replace("\\\n", " ")
    spans = re.findall(r"`([^`]+)`", FENCE.sub("", text))
    return [line.split(" # ")[0] for line in (*blocks.splitlines(), *spans)]


@every_page
def test_every_option_on_a_page_exists(page: Path, usage: dict[str, str]) -> None:
    for line in commands(page.read_text()):
        command = COMMAND.search(line)
        if command:
            known = {*OPTION.findall(usage.get(LAUNCHED.get(command[1], command[1]), "")), *OTHERS}
        elif re.search(r"\.py\b", line):  # a script of another folder or package
            continue
        else:
            known = {*OPTION.findall("".join(usage.values())), *OTHERS}
        unknown = set(OPTION.findall(line)) - known
        assert not unknown, f"{line}: {unknown}"


@every_page
def test_every_command_on_a_page_has_the_required_options(page: Path, usage) -> None:
    for line in commands(page.read_text()):
        command = re.match(r"(?:\w+=\S+ )*python tools/(\w+)\.py \S", line)
        if command:
            missing = required(usage[command[1]]) - set(OPTION.findall(line))
            assert not missing, f"{line}: {missing}"


def test_every_set_up_message_on_the_installation_page_exists() -> None:
    """Each row begins with a message of the Makefile or of care_mm; … stands for what varies."""
    files = [ROOT / "Makefile", *(ROOT / "care_mm").glob("*.py")]
    source = "".join(re.sub(r'"\s*\n\s*f?"', "", file.read_text()) for file in files)
    table = (ROOT / "docs" / "install.md").read_text().split("| message |")[1]
    messages = re.findall(r"^\| `([^`]+)` \|", table, flags=re.MULTILINE)
    assert messages
    for message in messages:
        for part in message.split("…"):
            assert part in source, message


# Plain English

# Pattern -> what to write instead.
FORBIDDEN = {
    r"\bpictures?\b(?!/)": "image",  # `pictures/` is a folder of earlier versions
    r"\bmend(s|ed|ing)?\b": "fix",
    r"\bbeside\b": "next to",
    r"\bgo(es|ing)? on from\b": "resume from",
    r"\b(are|is) looked at\b": "is checked",
    r"(?<!there )\bare none\b": "are ignored",
    r"\bfiles of strangers\b": "untrusted files",
    r"\brandom stay\b": "... stay random",
    r"^#+ (What|Which|Of|Within|As which)\b[^?\n]*$": "a heading that names its topic",
    r'"""(What|Which|Of|By|Within|As which)\b': "a docstring that begins with a verb or noun",
}
PLAIN = {pattern: re.compile(pattern, re.IGNORECASE | re.MULTILINE) for pattern in FORBIDDEN}


@pytest.mark.parametrize("file", PAGES + SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_plain_english(file: Path) -> None:
    text = file.read_text()
    faults = [
        f"{file.name}:{text[: match.start()].count(chr(10)) + 1}: {match[0]!r}: write {better}"
        for pattern, better in FORBIDDEN.items()
        if file.suffix == ".md" or "heading" not in better
        for match in PLAIN[pattern].finditer(text)
    ]
    assert not faults, "\n".join(faults)


# Snippets


def snippets(text: str, *names: str) -> list[str]:
    """Return the named config snippets of a page; ``# name.py`` is the first line of each."""
    found = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", text, flags=re.DOTALL))
    assert list(found) == list(names)
    return [re.sub(r'(_base_ = ")(configs/)', rf"\g<1>{ROOT}/\2", found[name]) for name in names]


def test_the_config_with_care_in_the_readme_builds(tmp_path: Path) -> None:
    text = re.findall(r"```python\n(_base_ = \"mmdet::.*?)```", README.read_text(), flags=re.DOTALL)
    (tmp_path / "own.py").write_text(text[0])
    config = Config.fromfile(tmp_path / "own.py")
    init_default_scope(config.default_scope)
    model = MODELS.build(without_pretrained(config.model))
    assert isinstance(model.backbone, CARETransformer)
    assert list(model.backbone.out_channels) == config.model.neck.in_channels


def test_the_sizes_in_the_readme_are_those_of_the_models() -> None:
    row = re.compile(r"^\| `(s\d)` \| ([\d, ]+) \| ([\d.]+) M \|", re.MULTILINE)
    rows = row.findall(README.read_text())
    assert [arch for arch, _, _ in rows] == ["s0", "s1", "s2"]
    for arch, channels, millions in rows:
        backbone = CARETransformer(arch)
        assert channels == ", ".join(map(str, backbone.out_channels))
        parameters = sum(p.numel() for p in backbone.parameters())
        assert parameters / 1e6 == pytest.approx(float(millions), abs=0.005)


def test_frozen_stages_leave_what_the_page_says() -> None:
    rows = re.findall(r"^\| (-?\d) \| .* \| ([\d.]+)(?: M)? \|$", FINETUNE, flags=re.MULTILINE)
    assert [int(stages) for stages, _ in rows] == [-1, 0, 1, 2, 3, 4]
    for stages, millions in rows:
        backbone = CARETransformer("s1", frozen_stages=int(stages))
        trained = sum(p.numel() for p in backbone.parameters() if p.requires_grad)
        assert trained / 1e6 == pytest.approx(float(millions), abs=0.005)


def test_configs_of_the_fine_tuning_page_train(tmp_path: Path, monkeypatch) -> None:
    """Train all of them in one run: each config is the base of the next."""
    names = ("gentle.py", "shorter.py", "careful.py", "watched.py")
    base = str(ROOT / "configs" / "maskrcnn_care_s1_coco.py")
    start = base
    for name, text in zip(names, snippets(FINETUNE, *names), strict=True):
        file = tmp_path / name
        file.write_text(text)
        Config.fromfile(file)  # each on its own
        file.write_text(text.replace(start, base))
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
