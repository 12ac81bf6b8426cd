"""Files of the Hugging Face hub through its own library, with errors of one line."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import errors as hub_errors

from frozenseg.errors import UserError
from frozenseg.files import sha256_of

SHA256 = re.compile(r"[0-9a-f]{64}")
READ_ONLY_KINDS = ("*.yaml", "*.json", "*.safetensors", "*.txt")
"""What is fetched of a model: text and tensors. None of them can execute anything."""

# The library's own errors are those of its transport too, which has changed more than once.
_FAILURES: tuple[type[BaseException], ...] = (
    *hub_errors.HfHubHTTPError.__bases__,
    OSError,
    ValueError,
    getattr(hub_errors, "RevisionResolutionError", OSError),
)


@contextmanager
def saying_what_failed(repository: str) -> Iterator[None]:
    """Turn errors of the hub's library and of the network into a `UserError`."""
    try:
        yield
    except UserError:
        raise
    except _FAILURES as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{repository}: the hub does not give or take it ({reason})") from None


def fetch_hub_file(repository: str, file: str) -> tuple[Path, str, bool]:
    """Fetch a file into the hub's cache, or find it there.

    Returns its path, its SHA-256, and whether that is the one which the hub tells.
    """
    with saying_what_failed(f"{repository}/{file}"):
        path = Path(huggingface_hub.hf_hub_download(repository, file))
    return path, *check_digest(path)


def fetch_model(repository: str, **arguments: Any) -> Path:
    """Fetch the files of a model that are text or tensors; returns their folder in the cache.

    arguments: revision, cache_dir, token, local_files_only and force_download of the hub's
    library. Weights whose SHA-256 is not the one that the hub tells are refused.
    """
    with saying_what_failed(repository):
        folder = Path(
            huggingface_hub.snapshot_download(
                repository, allow_patterns=list(READ_ONLY_KINDS), **arguments
            )
        )
    for path in folder.rglob("*.safetensors"):
        check_digest(path)
    return folder


def check_digest(path: Path) -> tuple[str, bool]:
    """Return the SHA-256 of a file in the hub's cache, and whether the hub tells it.

    The cache calls a large file by the digest that the hub tells. A file that has another one is
    removed, and a `UserError`.
    """
    blob = path.resolve()
    found = sha256_of(blob)
    told = SHA256.fullmatch(blob.name) is not None
    if told and found != blob.name:
        blob.unlink()
        path.unlink(missing_ok=True)
        raise UserError(
            f"{path.name}: has the SHA-256 {found}, the hub tells {blob.name}; fetch it again"
        )
    return found, told
