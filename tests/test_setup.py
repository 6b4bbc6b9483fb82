"""Set-up: pins that agree, launchers that pass on what they are given, failures in one line."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from packaging.requirements import Requirement

from care_mm import smoke

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ASKED = {
    "requirements.txt": PROJECT["project"]["optional-dependencies"],
    "requirements-originals.txt": PROJECT["dependency-groups"],
}
PINS = {
    file: [
        Requirement(line)
        for line in (ROOT / file).read_text().splitlines()
        if not line.startswith("#")
    ]
    for file in ASKED
}
DIRECT = [
    pytest.param(file, Requirement(line), id=f"{file}-{line}")
    for file, groups in ASKED.items()
    for lines in groups.values()
    for line in lines
]
EXECUTABLES = [".ci/run", "tools/dist_train.sh", "tools/dist_test.sh", "tools/slurm_train.sh"]


@pytest.mark.parametrize(("file", "direct"), DIRECT)
def test_direct_pins_are_exact_and_locked(file: str, direct: Requirement) -> None:
    assert re.fullmatch(r"==[\w.]+", str(direct.specifier))
    locked = [pin for pin in PINS[file] if pin.name == direct.name]
    assert direct.specifier in [pin.specifier for pin in locked]
    assert direct.marker or locked == [direct]  # some are pinned by Python version


@pytest.mark.parametrize("file", PINS)
def test_every_requirement_is_pinned_from_the_registry(file: str) -> None:
    text = (ROOT / file).read_text()
    assert all(re.fullmatch(r"==[\w.]+", str(pin.specifier)) for pin in PINS[file])
    assert "://" not in text
    assert "--" not in text


@pytest.mark.parametrize("file", PINS)
def test_opencv_is_there_once(file: str) -> None:
    names = [pin.name for pin in PINS[file] if pin.name.startswith("opencv")]
    assert names == ["opencv-python-headless"]


def test_base_dependencies_leave_mm_packages_alone() -> None:
    names = {Requirement(line).name for line in PROJECT["project"]["dependencies"]}
    assert names == {"torch", "numpy", "pillow"}


# Launchers: a stand-in for torchrun and srun prints its arguments, one a line.


@pytest.mark.parametrize("script", EXECUTABLES)
def test_script_parses_and_is_executable(script: str) -> None:
    subprocess.run(["bash", "-n", ROOT / script], check=True)
    assert os.access(ROOT / script, os.X_OK)


def launch(folder: Path, script: str, *args: str, **env: str) -> subprocess.CompletedProcess:
    for name in ("torchrun", "srun"):
        write_executable(folder / name, 'echo "${0##*/}"; printf "%s\\n" "$@"; echo "$PYTHONPATH"')
    # An active environment comes before .venv, as the user's own would.
    env = {"PATH": f"{folder}:{os.environ['PATH']}", "VIRTUAL_ENV": str(folder), **env}
    return subprocess.run(
        [ROOT / "tools" / script, *args], env=env, capture_output=True, text=True, cwd=folder
    )


def write_executable(path: Path, body: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{body}\n")
    path.chmod(0o755)


def torchrun_lines(nnodes: int, rank: int, addr: str, port: int, gpus: int) -> list[str]:
    return [
        "torchrun",
        f"--nnodes={nnodes}",
        f"--node-rank={rank}",
        f"--master-addr={addr}",
        f"--master-port={port}",
        f"--nproc-per-node={gpus}",
    ]


def test_dist_train(tmp_path: Path) -> None:
    done = launch(tmp_path, "dist_train.sh", "a b.py", "2", "--cfg-options", "x=[1, 2]")
    assert done.stdout.splitlines() == [
        *torchrun_lines(1, 0, "127.0.0.1", 29500, 2),
        *[str(ROOT / "tools/train.py"), "--launcher", "pytorch", "a b.py"],
        *["--cfg-options", "x=[1, 2]", str(ROOT)],
    ]


def test_dist_test_on_the_second_of_two_machines(tmp_path: Path) -> None:
    nodes = dict(NNODES="2", NODE_RANK="1", MASTER_ADDR="10.0.0.1", PORT="1234")
    done = launch(tmp_path, "dist_test.sh", "c.py", "w.pth", "4", "--out", "f.pkl", **nodes)
    assert done.stdout.splitlines() == [
        *torchrun_lines(2, 1, "10.0.0.1", 1234, 4),
        *[str(ROOT / "tools/test.py"), "--launcher", "pytorch", "c.py", "w.pth"],
        *["--out", "f.pkl", str(ROOT)],
    ]


@pytest.mark.parametrize(("gpus", "per_node"), [(None, 8), ("4", 4), ("16", 8)])
def test_slurm_train(tmp_path: Path, gpus: str | None, per_node: int) -> None:
    env = {"GPUS": gpus} if gpus else {}
    env["SRUN_ARGS"] = "--time=1:00 --exclusive"
    done = launch(tmp_path, "slurm_train.sh", "part", "job", "c.py", "--amp", **env)
    assert done.stdout.splitlines() == [
        "srun",
        *["--partition=part", "--job-name=job", f"--gres=gpu:{per_node}"],
        *[f"--ntasks={gpus or 8}", f"--ntasks-per-node={per_node}", "--cpus-per-task=5"],
        *["--kill-on-bad-exit=1", "--time=1:00", "--exclusive"],
        *["python", "-u", str(ROOT / "tools/train.py"), "c.py", "--launcher", "slurm", "--amp"],
        str(ROOT),
    ]


@pytest.mark.parametrize(
    ("script", "args"),
    [("dist_train.sh", ["c.py"]), ("dist_test.sh", ["c.py", "2"]), ("slurm_train.sh", ["p", "j"])],
)
def test_too_few_arguments(tmp_path: Path, script: str, args: list[str]) -> None:
    done = launch(tmp_path, script, *args)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("usage: ")


# tools/check_env.py


@pytest.fixture
def check_env() -> ModuleType:
    """The command as a module; ``check_env.environment`` has the checks."""
    spec = importlib.util.spec_from_file_location("check_env", ROOT / "tools/check_env.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Unloadable(ModuleType):
    """A package whose operators cannot be taken from it."""

    def __getattr__(self, name: str) -> None:
        raise ImportError("undefined symbol")


@pytest.mark.parametrize(
    ("name", "package", "message"),
    [
        ("torch", None, "torch is not installed: run `make setup`"),
        ("mmcv", SimpleNamespace(__version__="1.7.2"), "mmcv 1.7.2 is too old, 2.1.0 is"),
        ("mmcv.ops", None, "mmcv's operators are not compiled"),
        ("mmcv.ops", Unloadable("mmcv.ops"), "mmcv's operators are not compiled"),
        (
            "mmcv.ops",
            SimpleNamespace(nms=lambda boxes, *args, **kwargs: (boxes, boxes[:, 0].long())),
            "mmcv.ops.nms on cpu keeps boxes [0, 1, 20]",
        ),
    ],
)
def test_check_env_says_what_is_wrong(
    check_env: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    name: str,
    package: object,
    message: str,
) -> None:
    monkeypatch.setitem(sys.modules, name, package)
    with pytest.raises(SystemExit) as stop:
        check_env.main(["--quick"])
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith(f"check_env.py: error: {message}")


def test_check_env_names_libgl(
    check_env: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cv2.py").write_text("raise ImportError('libGL.so.1: cannot open shared object')")
    monkeypatch.delitem(sys.modules, "cv2", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    environment = check_env.environment
    with pytest.raises(environment.Problem, match="uninstall it and opencv-python-headless"):
        environment.check_package("cv2", "4.5")


def test_check_env_is_content_here(check_env: ModuleType, capsys: pytest.CaptureFixture) -> None:
    check_env.main(["--quick"])
    out = capsys.readouterr().out
    assert "mmcv.ops.nms  runs on cpu" in out
    assert out.endswith("OK\n")


def test_check_env_runs_a_step_of_a_detector(
    check_env: ModuleType, capsys: pytest.CaptureFixture
) -> None:
    check_env.main([])
    out = capsys.readouterr().out
    for line in (
        "mmdet         3.",
        "timm          1.",
        "CARE-S0       a step",
        "Mask R-CNN    a step",
    ):
        assert f"\n{line}" in out
    assert "INFO" not in out
    assert out.endswith("OK\n")


def test_check_env_names_a_gradient_that_is_nan(
    check_env: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.Tensor, "square", lambda self: self * float("nan"))
    environment = check_env.environment
    with pytest.raises(environment.Problem, match=r"CARE-S0 on cpu: stem\S+ gets no finite"):
        environment.check_step("CARE-S0", "a step", smoke.step_backbone, "cpu")


def test_check_env_names_a_step_that_fails(check_env: ModuleType) -> None:
    def step(device: str) -> None:
        raise RuntimeError("no kernel\nimage is available")

    with pytest.raises(check_env.environment.Problem) as caught:
        check_env.environment.check_step("Mask R-CNN", "a step", step, "cuda")
    message = "Mask R-CNN does not run (RuntimeError: no kernel image is available): run `make"
    assert str(caught.value).startswith(message)


def test_check_env_names_two_of_a_kind(check_env: ModuleType, monkeypatch, tmp_path: Path) -> None:
    for name, version in (("onedl-mmcv", "2.3.6"), ("mmcv", "2.1.0")):
        info = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    monkeypatch.syspath_prepend(tmp_path)
    environment = check_env.environment
    with pytest.raises(environment.Problem, match="pip uninstall onedl-mmcv mmcv, then install"):
        environment.check_versions()


# The Makefile, with stand-ins for uv and Python


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    if not (shutil.which("make") and shutil.which("c++")):
        pytest.skip("needs make and a C++ compiler")
    folder = tmp_path / "a clone"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "requirements.txt"):
        shutil.copy(ROOT / name, folder)
    return folder


def make(clone: Path, target: str, uv: str = "exit 0", **env: str) -> subprocess.CompletedProcess:
    """Run make where ``uv`` is that script; it notes each call in ``calls``."""
    version = 'if [ "$1" = --version ]; then echo "uv 99.0.0"; exit; fi'
    write_executable(clone / "bin/uv", f'{version}\necho "$@" >> calls\n{uv}')
    path = f"{clone / 'bin'}:{os.environ['PATH']}"
    env = {"PATH": path, "PYTHON": sys.executable, "XDG_CACHE_HOME": f"{clone}/cache", **env}
    return subprocess.run(["make", target], cwd=clone, env=env, capture_output=True, text=True)


# What the stand-in for the environment's Python does: it names torch's build, or "compiles" mmcv.
PYTHON = r"""
echo "python $*" >> calls
case "$*" in
*__version__*) echo key ;;
*"pip wheel"*) mkdir -p cache/care_mm/key.new && touch cache/care_mm/key.new/mmcv.whl ;;
*zipfile*) echo mmcv/_ext.so ;;
esac
"""
MAKE_VENV = f"""
if [ "$1" = venv ]; then
    mkdir -p .venv/bin
    cat > .venv/bin/python <<'END'
#!/bin/sh
{PYTHON}
END
    chmod +x .venv/bin/python
fi
"""


def test_set_up_is_done_once_and_again_for_new_contents(clone: Path) -> None:
    first = make(clone, "setup", MAKE_VENV)
    assert first.returncode == 0, first.stderr
    calls = (clone / "calls").read_text()
    steps = ["venv ", "pip sync", "pip wheel", "pip install", "pip install", "check_env.py --quick"]
    assert re.search(".*".join(map(re.escape, steps)), calls, re.DOTALL)
    (clone / "calls").unlink()
    (clone / "requirements.txt").touch()
    assert make(clone, "setup").returncode == 0
    assert not (clone / "calls").exists()
    (clone / "requirements.txt").write_text("torch==0\n")
    assert make(clone, "setup").returncode == 0
    calls = (clone / "calls").read_text()
    assert "pip sync" in calls
    assert "pip wheel" not in calls
    assert len(list((clone / ".venv").glob("ready-*"))) == 1


@pytest.mark.parametrize(
    ("uv", "env", "message"),
    [
        ("exit 0", {"CXX": "no-such-compiler"}, "mmcv's operators need a C++ compiler"),
        ('[ "$2" != sync ]', {}, "uv could not install requirements.txt: no network"),
        ("sed -i s/_ext// .venv/bin/python", {}, "mmcv did not compile; docs/install.md has"),
    ],
)
def test_set_up_says_what_failed(clone: Path, uv: str, env: dict, message: str) -> None:
    done = make(clone, "setup", f"{MAKE_VENV}\n{uv}", **env)
    assert done.returncode != 0
    assert f"set-up: {message}" in done.stderr
    assert not list(clone.glob(".venv/ready-*"))
    assert not (clone / "cache/care_mm/key").exists()


def test_set_up_without_a_python_in_range(clone: Path) -> None:
    for name in ("python3.12", "python3.11", "python3.10", "python3"):
        write_executable(clone / "bin" / name, "exit 1")
    done = make(clone, "setup", PYTHON="no-such-python")
    assert done.returncode != 0
    assert "is Python 3.10 to 3.12: install one" in done.stderr
    assert not (clone / ".venv").exists()


def test_every_target_has_help(clone: Path) -> None:
    listed = re.findall(r"^  make (\S+) +\S", make(clone, "help").stdout, re.MULTILINE)
    phony = re.search(r"^\.PHONY: (.*)$", (clone / "Makefile").read_text(), re.MULTILINE)
    assert listed == phony[1].split()
