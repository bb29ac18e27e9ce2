"""Files from the net, in torch.hub's cache: resumed where they broke off, verified, and there whole or not at all."""

import errno
import hashlib
import http.client
import json
import os
import re
from contextlib import closing
from http import HTTPStatus
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

import torch
from tqdm import tqdm

from lib.base.atomic import write_atomically
from lib.base.errors import UserError
from lib.base.lock import acquire, release
from lib.base.names import printable

URL = re.compile(r"https?://", re.IGNORECASE)
NAME = re.compile(r"[\w.+@-]{1,200}", re.ASCII)
HASH = re.compile(r"-([0-9a-f]{8,64})\.")
"""In a file's name, torch.hub's convention: the beginning of its SHA256."""
LARGEST = 1 << 34
"""Bytes of a file that is downloaded."""
SECONDS = 9
"""Without a word from the server."""
TRIES = 3
"""In which the connection breaks before anything new has come."""
PATIENCE_SECONDS = 6 * 3600
"""For another process of this machine that downloads the same file."""


class _Broken(Exception):
    """The connection ended too early."""


class _Unreachable(_Broken):
    """There was none."""


def download(url: str) -> Path:
    """The file behind an http(s) address, in torch.hub's cache; not asked for again where it is there already.

    Where its name has a part of its SHA256, as in ``resnet50-0676ba61.pth``, that is verified, each time.

    Raises:
        UserError: the address names no file or cannot be reached, the file is too large or not what its name says, or
            the connection broke off too often; what came by then is where the next call goes on.
    """
    try:
        name = unquote(urlsplit(url).path).rpartition("/")[2]
    except ValueError:
        raise UserError(f"{printable(url)} is no address: give one such as https://host/resnet101.pth") from None
    if not NAME.fullmatch(name) or name.startswith("."):
        raise UserError(f"{shown(url)} names no file: give the address of one, such as https://host/resnet101.pth")
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    target, part = folder / name, folder / f".{name}.part"
    lock = folder / f".{name}.lock"
    try:
        handle = acquire(lock, f"another process has been downloading {target} for long: end it", PATIENCE_SECONDS)
        try:
            wanted = HASH.search(name)
            if target.is_file() and (wanted is None or _sha256(target).startswith(wanted[1])):
                return target
            _fetch(url, part)
            if wanted and not (found := _sha256(part)).startswith(wanted[1]):
                part.unlink()
                raise UserError(
                    f"{shown(url)} is not the file that its name says: its SHA256 begins with {found[:16]}, not "
                    f"{wanted[1]}: check the address, or give a file"
                )
            os.replace(part, target)
            _note_of(part).unlink(missing_ok=True)
        finally:
            lock.unlink(missing_ok=True)
            release(handle)
    except OSError as error:
        raise UserError(f"cannot write to torch.hub's cache: {error}: set TORCH_HOME to another folder") from None
    return target


def shown(url: str) -> str:
    """An address without what may be secret of it: name, password and query."""
    found = urlsplit(url)
    return printable(f"{found.scheme}://{found.netloc.rpartition('@')[2]}{found.path}")


def _fetch(url: str, part: Path) -> None:
    """Fill ``part``, from where it ends if the file is still the one that it is of."""
    fruitless, is_over = 0, False
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            if _attempt(url, part):
                return
            # The server does not go on from there: from the start.
            part.unlink()
            reason = "the server does not go on where it broke off"
        except _Broken as error:
            reason, is_over = str(error), isinstance(error, _Unreachable)
        after = part.stat().st_size if part.exists() else 0
        fruitless = 0 if after > before else fruitless + 1
        if is_over or fruitless >= TRIES:
            begun = f"; {after:,} bytes are there, and the same command goes on from them" if after else ""
            raise UserError(
                f"{shown(url)} cannot be downloaded: {reason}{begun}: check the connection, or give a file"
            ) from None


def _attempt(url: str, part: Path) -> bool:
    """Take what the server sends; False where it has none of what is left."""
    note = _note_of(part)
    have, validator = _begun(url, part, note)
    headers = {"User-Agent": f"torch.hub/{torch.__version__}", "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": validator}
    try:
        response = urlopen(Request(url, headers=headers), timeout=SECONDS)
    except HTTPError as error:
        with closing(error):
            if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
                return error.headers.get("Content-Range", "").rpartition("/")[2] == str(have)
            status = f"{error.code} {printable(error.reason)}"
        if error.code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise _Unreachable(f"the server says {status}") from None
        raise UserError(f"{shown(url)}: the server says {status}: check the address, or give a file") from None
    except (URLError, http.client.HTTPException, OSError, ValueError) as error:
        raise _Unreachable(_reason(error)) from None
    with response:
        if have and response.status != HTTPStatus.PARTIAL_CONTENT:
            have = 0
        start = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        if have and (start is None or int(start[1]) != have):
            return False
        validator = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        content = json.dumps({"url": url, "validator": "" if validator.startswith("W/") else validator})
        write_atomically(note, lambda file: file.write(content.encode()))
        _receive(response, url, part, have)
    return True


def _begun(url: str, part: Path, note: Path) -> tuple[int, str]:
    """How many bytes of ``part`` can be gone on from, and how the server knows that its file is still the same."""
    try:
        found = json.loads(note.read_text())
        if found["url"] == url and found["validator"]:
            return part.stat().st_size, str(found["validator"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return 0, ""


def _receive(response: http.client.HTTPResponse, url: str, part: Path, have: int) -> None:
    length = response.headers.get("Content-Length") or ""
    total = have + int(length) if length.isdecimal() and len(length) < 20 else None
    _require_size(url, total or 0)
    name = part.name.removeprefix(".").removesuffix(".part")
    with (
        part.open("ab" if have else "wb") as file,
        tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=name, disable=None) as bar,
    ):
        while True:
            try:
                received = response.read(1 << 20)
            except (http.client.HTTPException, OSError) as error:
                raise _Broken(_reason(error)) from None
            if not received:
                break
            have += len(received)
            if have > LARGEST:
                file.close()
                part.unlink()
                _require_size(url, have)
            file.write(received)
            bar.update(len(received))
        file.flush()
        os.fsync(file.fileno())
    if total is not None and have < total:
        raise _Broken(f"it broke off after {have:,} of {total:,} bytes")


def _require_size(url: str, size: int) -> None:
    if size > LARGEST:
        raise UserError(f"{shown(url)} is larger than the {LARGEST:,} bytes that weights may have: check the address")


def _note_of(part: Path) -> Path:
    """The file that says what ``part`` is of."""
    return part.with_name(f"{part.name}.json")


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", error)
    if isinstance(reason, TimeoutError) or getattr(reason, "errno", None) == errno.ETIMEDOUT:
        return f"no word from the server for {SECONDS} seconds"
    return printable(getattr(reason, "strerror", None) or reason or type(error).__name__)


def _sha256(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            found.update(part)
    return found.hexdigest()
