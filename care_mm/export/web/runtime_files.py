"""The files of onnxruntime-web that the page loads: from npm, a cache, or a given folder."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from care_mm.errors import InputError, one_line
from care_mm.files import sha256_of

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
# File -> beginning of its SHA-256. The first three run in WebAssembly, the others in WebGPU.
FILES = {
    "ort.wasm.min.mjs": "219e6a1fc8a9938268d18efca3c91d310bd2f4a5",
    "ort-wasm-simd-threaded.mjs": "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e570",
    "ort.webgpu.min.mjs": "3dffff71811bc13a3a3d9591c57ca5ee5735b8f5",
    "ort-wasm-simd-threaded.asyncify.mjs": "3d1c85995364bb643302fc6fd877a0c3ba5ae724",
    "ort-wasm-simd-threaded.asyncify.wasm": "39f9f0894d478800487ed9f7dbe92618498db320",
}


def runtime_files(given: Path | None = None) -> dict[str, Path]:
    """Return the files by name.

    Args:
        given: A folder with the files, or with the unpacked npm package. By default the files come
            from the cache, and ``npm pack`` fills it.

    Raises:
        InputError: The files cannot be had, or are those of another version.
    """
    if given is not None:
        return _checked(_folder_in(given), f"--runtime-files {given}")
    cached = cache_folder()
    if not cached.is_dir():
        _download(cached)
    return _checked(cached, str(cached))


def cache_folder() -> Path:
    """Return the folder that keeps the files between exports."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "care_mm" / f"{PACKAGE}-{VERSION}"


def _folder_in(given: Path) -> Path:
    """Return the subfolder of an unpacked package that has the files."""
    first = next(iter(FILES))
    folders = (given, given / "dist", given / "package" / "dist")
    return next((folder for folder in folders if (folder / first).is_file()), given)


def _checked(folder: Path, source: str) -> dict[str, Path]:
    """Return the files of a folder; raise InputError if one is missing or different."""
    for name, digest in FILES.items():
        path = folder / name
        if not path.is_file():
            raise InputError(f"{source}: there is no {name} of the npm package {PACKAGE} {VERSION}")
        if not sha256_of(path).startswith(digest):
            raise InputError(
                f"{source}: {name} is damaged, or not that of the npm package {PACKAGE} {VERSION}"
            )
    return {name: folder / name for name in FILES}


def _download(target: Path) -> None:
    """Fill the cache with ``npm pack``; the folder appears complete or not at all.

    Raises:
        InputError: npm is missing or fails.
    """
    advice = f"or unpack the npm package {PACKAGE} {VERSION} and name its folder by --runtime-files"
    npm = shutil.which("npm")
    if npm is None:
        raise InputError(f"--format web needs {PACKAGE}: install npm, {advice}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as name:
        folder = Path(name)
        command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--silent", "--pack-destination", name]
        result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=name)
        archives = list(folder.glob("*.tgz"))
        if result.returncode or not archives:
            reason = one_line(result.stderr or result.stdout or "no message", 200)
            raise InputError(f"npm pack {PACKAGE}@{VERSION} failed ({reason}): try again, {advice}")
        complete = folder / "files"
        complete.mkdir()
        with tarfile.open(fileobj=io.BytesIO(archives[0].read_bytes())) as archive:
            for file in FILES:
                content = archive.extractfile(f"package/dist/{file}")
                (complete / file).write_bytes(content.read())
        _checked(complete, f"npm pack {PACKAGE}@{VERSION}")
        if not target.is_dir():  # another export may have been faster
            complete.rename(target)
