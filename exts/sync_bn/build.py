"""Building the extension in place: one library for the CPU and, where it can be compiled, one for CUDA.

``bash exts/make.sh`` runs this file as a program. ninja compiles what is out of date, so a second run does nothing.
``CXX`` chooses the compiler, ``CXXFLAGS`` adds to its flags (``-march=x86-64-v3`` where machines of several generations
share a checkout), ``CUDA_HOME`` names the toolkit and ``TORCH_CUDA_ARCH_LIST`` the GPUs, as in ``8.0;9.0+PTX``.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import torch

FOLDER = Path(__file__).resolve().parent
# A library fits the PyTorch that it was built for and no other: its place says which.
BUILD = FOLDER / "build" / f"torch-{torch.__version__}"
ARCHITECTURES = "8.0;9.0+PTX"
WARNINGS = ["-Wall", "-Wextra", "-Werror"]
# Fused and unordered arithmetic, none of which assumes away NaN or infinity.
ARITHMETIC = ["-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"]
RULES = """
rule compile
  command = $compiler -MD -MF $out.d $flags -c $in -o $out
  depfile = $out.d
  deps = gcc
  description = exts/sync_bn: compiling $out for $device

rule link
  command = $linker -shared $in $flags -o $out
  description = exts/sync_bn: linking for $device
"""


def library_path(device: str) -> Path:
    """Where the library for ``device``, ``cpu`` or ``cuda``, is or would be."""
    return BUILD / device / f"sync_bn_{device}.so"


def main() -> int:
    """Build what can be built and say what was left out; returns the exit status, 1 where a build failed."""
    cxx = shlex.split(os.environ.get("CXX", "g++"))
    for program, remedy in ((cxx[0], "install it, or name another with CXX"), ("ninja", "pip install ninja")):
        if not _find(program):
            print(f"exts/sync_bn: not built, there is no {program} ({remedy}); PyTorch's own operations serve instead")
            return 1
    commands = {"cpu": _cpu_commands(cxx)}
    reason = _why_no_cuda()
    if not reason:
        architectures = os.environ.get("TORCH_CUDA_ARCH_LIST") or ARCHITECTURES
        try:
            commands["cuda"] = _cuda_commands(cxx, architectures)
        except ValueError as error:
            reason = str(error)
    results = {device: _build(device, commands[device]) for device in commands}
    for device, is_built in results.items():
        extent = f", architectures {architectures}" if device == "cuda" else ""
        outcome = f"built for PyTorch {torch.__version__}{extent}" if is_built else "FAILED, see above"
        print(f"exts/sync_bn: {device} {outcome}")
    if reason:
        print(f"exts/sync_bn: cuda left out, {reason}")
    return int(not all(results.values()))


def _find(program: str) -> str | None:
    """The path of ``program``, which the Python environment may hold."""
    return shutil.which(program, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))


def _nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME")
    return shutil.which("nvcc", path=str(Path(home) / "bin")) if home else _find("nvcc")


def _why_no_cuda() -> str | None:
    """Why there can be no library for CUDA, or None."""
    if not torch.version.cuda:
        return "this PyTorch is built without CUDA"
    nvcc = _nvcc()
    if not nvcc:
        return "there is no nvcc (install the CUDA toolkit, or name its folder with CUDA_HOME)"
    said = subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
    release = re.search(r"release (\d+)\.", said)
    wanted = torch.version.cuda.split(".")[0]
    if release is None or release[1] != wanted:
        return f"{nvcc} is not of CUDA {wanted}, which this PyTorch is built with"
    return None


def _cpu_commands(cxx: list[str]) -> dict[str, list[str]]:
    common = [*_torch_flags(), "-O3", "-fPIC", "-fopenmp", *WARNINGS]
    flags = [*common, *ARITHMETIC, *shlex.split(os.environ.get("CXXFLAGS", ""))]
    return {"compiler": cxx, "flags": flags, "linker": cxx, "sources": ["ops.cpp", "cpu.cpp"]}


def _cuda_commands(cxx: list[str], architectures: str) -> dict[str, list[str]]:
    """nvcc compiles the C++ too: it knows where its headers are, and PyTorch's packages have those that it lacks."""
    host = ["-fPIC", *WARNINGS, *shlex.split(os.environ.get("CXXFLAGS", ""))]
    flags = [*_torch_flags(), "-O3", "-Werror", "all-warnings", *(f"-Xcompiler={flag}" for flag in host)]
    packages = find_spec("nvidia")
    for folder in packages.submodule_search_locations if packages else ():
        flags += ["-isystem", str(Path(folder) / f"cu{torch.version.cuda.split('.')[0]}" / "include")]
    for name in re.split(r"[;\s]+", architectures.strip()):
        parts = re.fullmatch(r"(\d+)\.(\d+[af]?)(\+PTX)?", name)
        if not parts:
            raise ValueError(f"{name!r} in TORCH_CUDA_ARCH_LIST is not an architecture such as 8.0 or 9.0+PTX")
        number = parts[1] + parts[2]
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        flags += [f"-gencode=arch=compute_{number},code=compute_{number}"] if parts[3] else []
    compiler = [_nvcc(), "-ccbin", cxx[0], "-DSYNC_BN_CUDA"]
    return {"compiler": compiler, "flags": flags, "linker": cxx, "sources": ["ops.cpp", "cuda.cu"]}


def _torch_flags() -> list[str]:
    include = Path(torch.__file__).parent / "include"
    return ["-std=c++20", f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}", "-isystem", str(include)]


def _build(device: str, commands: dict[str, list[str]]) -> bool:
    """Write one library's build file and let ninja bring the library up to date; returns whether it could."""
    library = library_path(device)
    library.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{name} = {_words(commands[name])}" for name in ("compiler", "flags", "linker")]
    lines += [f"device = {device}", RULES]
    for source in commands["sources"]:
        lines.append(f"build {source}.o: compile {_path(FOLDER / 'src' / source)}")
    # What CUDA's runtime has to offer comes with PyTorch's own libraries.
    link = [f"-L{Path(torch.__file__).parent / 'lib'}", "-lc10", "-ltorch_cpu", "-fopenmp"]
    link += ["-lc10_cuda"] if device == "cuda" else []
    lines += [f"build {library.name}: link {' '.join(f'{source}.o' for source in commands['sources'])}"]
    lines += [f"  flags = {_words(link)}", ""]
    (library.parent / "build.ninja").write_text("\n".join(lines))
    return subprocess.run([_find("ninja"), "--quiet", "-C", library.parent]).returncode == 0


def _words(words: list[str]) -> str:
    """Words of a command, quoted for the shell and for ninja."""
    return shlex.join(words).replace("$", "$$")


def _path(path: Path) -> str:
    """A path as ninja writes it among inputs and outputs."""
    return re.sub(r"([$ :])", r"$\1", str(path))


if __name__ == "__main__":
    sys.exit(main())
