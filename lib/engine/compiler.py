"""What ``torch.compile`` needs of the machine."""

import os
import shutil

from lib.base.errors import UserError


def require_compiler() -> None:
    """Raise UserError where ``torch.compile`` would find no C++ compiler."""
    compiler = os.environ.get("CXX", "g++")
    if not shutil.which(compiler):
        raise UserError(
            f"train.compile=true, but there is no compiler {compiler}: install it, or use train.compile=false"
        )
