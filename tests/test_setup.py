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
    **{
        f"requirements-{name}.txt": {name: lines}
        for name, lines in PROJECT["dependency-groups"].items()
    },
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
EXECUTABLES = [
    ".ci/run",
    "tools/dist_train.sh",
    "tools/dist_test.sh",
    "tools/mmcv_cxx.sh",
    "tools/slurm_train.sh",
]


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
    assert names == ([] if file == "requirements-litert.txt" else ["opencv-python-headless"])


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
    """A package whose operators cannot be imported."""

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


def test_check_env_accepts_this_environment(
    check_env: ModuleType, capsys: pytest.CaptureFixture
) -> None:
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


def test_check_env_names_a_fork_next_to_its_original(
    check_env: ModuleType, monkeypatch, tmp_path: Path
) -> None:
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


# A stand-in for the environment's Python: it prints the build of torch, or "compiles" mmcv.
PYTHON = r"""
echo "python $*" >> calls
case "$*" in
*__version__*) echo key ;;
*__config__*) echo -std=c++20 ;;
*"pip wheel"*)
    echo "compiler $CXX $MMCV_CXX, $MMCV_CXXFLAGS, nvcc $NVCC_APPEND_FLAGS" >> calls
    mkdir -p .venv/wheels && touch .venv/wheels/mmcv.whl ;;
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


def test_mmcv_is_compiled_for_the_standard_of_torch(clone: Path) -> None:
    """Without debug information, and through the wrapper around the user's compiler."""
    done = make(clone, "setup", MAKE_VENV, CXX="c++ -v")
    assert done.returncode == 0, done.stderr
    (line,) = re.findall("^compiler .*", (clone / "calls").read_text(), re.MULTILINE)
    assert line == "compiler mmcv_cxx.sh c++ -v, -g0 -std=c++20, nvcc -std=c++20"
    assert not (clone / ".venv/header").exists()


def test_set_up_without_a_python_in_range(clone: Path) -> None:
    for name in ("python3.14", "python3.13", "python3.12", "python3.11", "python3.10", "python3"):
        write_executable(clone / "bin" / name, "exit 1")
    done = make(clone, "setup", PYTHON="no-such-python")
    assert done.returncode != 0
    assert "is Python 3.10 to 3.14: install one" in done.stderr
    assert not (clone / ".venv").exists()


def test_every_target_has_help(clone: Path) -> None:
    listed = re.findall(r"^  make (\S+) +\S", make(clone, "help").stdout, re.MULTILINE)
    phony = re.findall(r"^\.PHONY: (.*)$", (clone / "Makefile").read_text(), re.MULTILINE)
    assert listed == " ".join(phony).split()


# The wrapper around the compiler, which compiles a tiny stand-in for torch's header

WRAPPER = ROOT / "tools/mmcv_cxx.sh"
# Note each call, then compile.
NOTING = 'printf "%s\\n" "$*" >> "${0%/*}/calls"; exec c++ "$@"'


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """A folder with two source files, the header, and a compiler that notes its calls."""
    if not (shutil.which("c++") and shutil.which("flock")):
        pytest.skip("needs a C++ compiler and flock")
    (tmp_path / "include/torch").mkdir(parents=True)
    (tmp_path / "include/torch/types.h").write_text("#pragma once\ninline int two() { return 2; }")
    for name in ("a", "b"):
        source = "#include <torch/types.h>\n" + f"int {name}() {{ return two(); }}\n"
        (tmp_path / f"{name}.cpp").write_text(source)
    write_executable(tmp_path / "noting", NOTING)
    (tmp_path / "header").mkdir()
    return tmp_path


def start(build: Path, *args: str, **env: str) -> subprocess.Popen:
    env = {
        "PATH": os.environ["PATH"],
        "MMCV_CXX": f"{build}/noting",
        "MMCV_HEADER": f"{build}/header",
        **env,
    }
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [WRAPPER, *args], cwd=build, env=env, stdout=pipe, stderr=pipe, text=True
    )


def compiling(name: str) -> list[str]:
    """The command line that torch's build extension has ninja run."""
    flags = ["-MMD", "-MF", f"{name}.o.d", "-g", "-O3", "-Iinclude", "-c", "-c", f"{name}.cpp"]
    return [*flags, "-o", f"{name}.o", "-std=c++17"]


def calls_of(build: Path) -> list[str]:
    return (build / "calls").read_text().splitlines()


def test_the_header_is_precompiled_once(build: Path) -> None:
    options = {"MMCV_CXXFLAGS": "-g0 -std=c++20 -H"}  # -H lists the headers that are used
    both = [start(build, *compiling(name), **options) for name in ("a", "b")]
    outputs = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    made, *compiled = calls_of(build)
    header = f"{build}/header/torch_types.h"
    flags = "-g -O3 -Iinclude -std=c++17 -g0 -std=c++20 -H"
    assert made == f"{flags} -x c++-header {header} -o {header}.gch"
    expected = [" ".join([*compiling(n), f"-g0 -std=c++20 -H -include {header}"]) for n in "ab"]
    assert sorted(compiled) == expected
    for name, output in zip("ab", outputs, strict=True):
        assert (build / f"{name}.o").is_file()
        if "Free Software" in subprocess.check_output(["c++", "--version"], text=True):
            assert f"! {header}.gch" in output  # as GCC marks a precompiled header in use


def test_a_header_that_does_not_compile_is_done_without(build: Path) -> None:
    refuse = '[[ "$*" != *c++-header* ]] || { echo no >&2; exit 1; }'
    write_executable(build / "noting", f"{refuse}\n{NOTING}")
    for name in ("a", "b"):
        process = start(build, *compiling(name))
        assert process.communicate() == ("", "")
        assert process.returncode == 0
    assert calls_of(build) == [" ".join(compiling("a")), " ".join(compiling("b"))]


def test_an_error_in_a_source_is_the_compilers(build: Path) -> None:
    (build / "a.cpp").write_text("int a() { return }\n")
    process = start(build, *compiling("a"))
    assert process.communicate()[1].count("a.cpp:1:18: error:") == 1
    assert process.returncode != 0


def test_linking_goes_through_unchanged(build: Path) -> None:
    """The compiler may be two words, as with ccache."""
    write_executable(build / "noting", 'printf "%s\\n" "$@"; exit 3')
    args = ["-shared", "a b.o", "-o", "c.so"]
    process = start(build, *args, MMCV_CXX=f"{build}/noting g++", MMCV_CXXFLAGS="-g0")
    assert process.communicate()[0].splitlines() == ["g++", *args]
    assert process.returncode == 3
    assert not any((build / "header").iterdir())
