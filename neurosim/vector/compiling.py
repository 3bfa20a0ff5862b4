"""Kernels compiled for this machine, kept by content beside the compiled mechanisms."""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from neurosim.errors import InputError
from neurosim.mechanisms.compiling import cache_folder, locked

# No -ffast-math: an individual that runs away has to be seen as NaN.
FLAGS = (
    "-std=c++17 -O3 -march=native -fno-math-errno -fno-trapping-math -fno-signed-zeros "
    "-fvisibility=hidden -fPIC -shared -w"
).split()


@functools.cache
def _machine() -> str:
    """Return what -march=native depends on: the processor's own list of what it can do."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "".join(
        dict.fromkeys(line for line in lines if line.startswith(("flags", "Features", "model name")))
    )


def _compiler() -> str:
    wanted = os.environ.get("CXX", "").split()[:1] or ["g++", "clang++", "c++"]
    compiler = next((found for name in wanted if (found := shutil.which(name))), None)
    if compiler is None:
        raise InputError(
            f"The vector engine compiles its kernel on this machine, and there is no C++ compiler "
            f"({' or '.join(wanted)}) here. Install one (Debian, Ubuntu: `apt-get install g++`; Fedora: `dnf "
            "install gcc-c++`; macOS: `xcode-select --install`), or use the NEURON engine."
        )
    return compiler


def compile_kernel(source: str) -> ctypes.CDLL:
    """Compile C++ text into a library and load it; at once when that was done before on this machine.

    Raises
    ------
    InputError
        There is no compiler, it fails (its words are in the message), or the cache cannot be written.
    """
    compiler = _compiler()
    digest = hashlib.sha256()
    for part in (source, compiler, *FLAGS, _machine()):
        digest.update(part.encode() + b"\0")
    path = cache_folder() / "kernels" / f"{digest.hexdigest()[:20]}.so"
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with locked(path.with_suffix(".lock")):
                if not path.is_file():
                    _compile(compiler, source, path)
        except OSError as error:
            raise InputError(
                f"{path.parent}: expected a folder to keep compiled kernels in, but writing there failed "
                f"({error.strerror or error}). Free some space, or set NEUROFLEET_CACHE to a folder of yours."
            ) from error
    return ctypes.CDLL(str(path))


def _compile(compiler: str, source: str, path: Path) -> None:
    """Compile in a folder of its own and rename the result: whoever comes later finds it whole."""
    with tempfile.TemporaryDirectory(prefix=".compiling-", dir=path.parent) as name:
        folder = Path(name)
        (folder / "kernel.cpp").write_text(source)
        result = subprocess.run(
            [compiler, *FLAGS, "-o", "kernel.so", "kernel.cpp"], cwd=folder, capture_output=True, text=True
        )
        if result.returncode != 0:
            raise InputError(
                f"The kernel of the vector engine did not compile ({compiler}, exit code "
                f"{result.returncode}). Use a compiler that knows C++17 and {FLAGS[2]}, or the NEURON "
                f"engine:\n{result.stderr[-2000:].strip()}"
            )
        (folder / "kernel.so").rename(path)
