"""Building the extension: what is built, what is left out, and how a user hears of it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from exts.sync_bn.build import library_path

ROOT = Path(__file__).parents[1]

UNBUILT = """
import warnings
import torch
from exts.sync_bn import COMPILED, SyncBatchNorm
assert not COMPILED
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    layers = [SyncBatchNorm(3, activation="relu") for _ in range(3)]
assert layers[0](torch.randn(4, 3)).min() == 0
print(*(warning.message for warning in caught), sep="\\n")
"""


def make(root: Path = ROOT, **environment: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"VENV": sys.prefix} | environment
    return subprocess.run(["bash", root / "exts" / "make.sh"], env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def made():
    """The extension of this checkout, built."""
    return make()


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A checkout in a folder with a space, with one-line sources that compile in a moment."""
    root = tmp_path / "check out"
    shutil.copytree(ROOT / "exts", root / "exts", ignore=shutil.ignore_patterns("build", "__pycache__"))
    (root / "lib" / "base").mkdir(parents=True)
    (root / "scripts").mkdir()
    shutil.copy(ROOT / "lib" / "base" / "errors.py", root / "lib" / "base")
    shutil.copy(ROOT / "scripts" / "python.sh", root / "scripts")
    for source in ("ops.cpp", "cpu.cpp", "cuda.cu"):
        (root / "exts" / "sync_bn" / "src" / source).write_text("int main() {}\n" if source == "ops.cpp" else "\n")
    return root


needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")
needs_nvcc = pytest.mark.skipif(not (shutil.which("nvcc") and torch.version.cuda), reason="needs nvcc")


@needs_compiler
def test_it_builds_for_the_cpu(made):
    assert made.returncode == 0, made.stdout + made.stderr
    assert f"cpu built for PyTorch {torch.__version__}" in made.stdout and library_path("cpu").exists()


@needs_nvcc
def test_it_builds_for_gpus_without_having_one(made):
    assert "exts/sync_bn: cuda built for PyTorch" in made.stdout and library_path("cuda").exists(), made.stdout


@needs_compiler
def test_a_second_run_compiles_nothing(made):
    before = library_path("cpu").stat().st_mtime_ns
    again = make()
    assert again.returncode == 0 and "compiling" not in again.stdout
    assert library_path("cpu").stat().st_mtime_ns == before


@needs_compiler
def test_without_nvcc_it_says_that_cuda_is_left_out(checkout):
    done = make(checkout, CUDA_HOME="/nowhere")
    assert done.returncode == 0, done.stdout
    reason = "there is no nvcc" if torch.version.cuda else "this PyTorch is built without CUDA"
    assert done.stdout.splitlines()[-1].startswith(f"exts/sync_bn: cuda left out, {reason}")


@needs_compiler
@needs_nvcc
def test_the_architectures_are_the_users(checkout):
    done = make(checkout, TORCH_CUDA_ARCH_LIST="9.0+PTX")
    assert done.returncode == 0 and "cuda built" in done.stdout and "architectures 9.0+PTX" in done.stdout, done.stdout
    (commands,) = checkout.glob("exts/sync_bn/build/*/cuda/build.ninja")
    assert "code=sm_90" in commands.read_text() and "code=compute_90" in commands.read_text()
    assert "sm_80" not in commands.read_text()
    done = make(checkout, TORCH_CUDA_ARCH_LIST="Hopper")
    assert "cuda left out, 'Hopper' in TORCH_CUDA_ARCH_LIST is not an architecture" in done.stdout


@needs_compiler
@pytest.mark.parametrize("source", ["cpu.cpp", pytest.param("cuda.cu", marks=needs_nvcc)])
def test_a_warning_is_an_error(checkout, source):
    (checkout / "exts" / "sync_bn" / "src" / source).write_text("static int forgotten() { return 0; }\n")
    done = make(checkout)
    device = source.split(".")[0]
    assert done.returncode == 1 and f"exts/sync_bn: {device} FAILED" in done.stdout
    assert "forgotten" in done.stdout


def test_without_a_compiler_one_line_says_so(checkout):
    done = make(checkout, CXX="no-such-compiler")
    assert done.returncode == 1 and done.stderr == ""
    assert done.stdout.count("\n") == 1 and "not built, there is no no-such-compiler" in done.stdout


@pytest.mark.parametrize("was_killed", [False, True])
def test_an_unbuilt_or_half_built_checkout_works_and_says_once_that_it_could_be_faster(checkout, was_killed):
    if was_killed:
        library = checkout / library_path("cpu").relative_to(ROOT)
        library.parent.mkdir(parents=True)
        library.write_bytes(b"\x7fELF")
    done = subprocess.run([sys.executable, "-c", UNBUILT], cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1 and "bash exts/make.sh builds it" in done.stdout


def test_setup_goes_on_without_the_extension(tmp_path):
    root = tmp_path / "checkout"
    (root / "scripts").mkdir(parents=True)
    (root / "exts").mkdir()
    (root / "exts" / "make.sh").write_text("echo exts/sync_bn: not built, there is no g++\nexit 1\n")
    (root / "requirements.txt").write_text("")
    shutil.copy(ROOT / "scripts" / "setup.sh", root / "scripts")
    environment = os.environ | {"VENV": str(root / "environment")}
    (root / "environment" / "bin").mkdir(parents=True)
    (root / "environment" / "bin" / "python").symlink_to(sys.executable)
    (root / "environment" / ".requirements-installed").write_text("")
    done = subprocess.run(["bash", root / "scripts" / "setup.sh"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0
    assert "there is no g++" in done.stdout and "going on without the compiled extension" in done.stderr
