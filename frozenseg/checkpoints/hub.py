"""Files of the Hugging Face hub through its own library, with errors of one line.

The library begins a file anew after a kill, since it gives the part another name in each process.
So large files are fetched here, into the place in its cache where it then finds them.
"""

import os
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub import errors as hub_errors
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import build_hf_headers

from frozenseg.checkpoints.resuming import Remote, fetched
from frozenseg.errors import UserError, sendable_token
from frozenseg.files import sha256_of, writing

NOTHING: Mapping[str, Any] = MappingProxyType({})
LONGEST_REASON = 500  # characters of an error of the hub's library
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
        # Its first line is the status alone; further ones say what was asked for, and the remedy.
        reason = textwrap.shorten(str(error), LONGEST_REASON)
        raise UserError(f"{repository}: the hub does not give or take it ({reason})") from None


def with_sendable_token(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments for the hub's library whose token, if they have one, can be sent."""
    token = arguments.get("token")
    if token and isinstance(token, str):  # others say whether to take the one that is stored
        return {**arguments, "token": sendable_token(token)}
    return dict(arguments)


def fetch_hub_file(repository: str, file: str) -> tuple[Path, str, bool]:
    """Fetch a file into the hub's cache, or find it there.

    Returns its path, its SHA-256, and whether that is the one which the hub tells.
    """
    with saying_what_failed(f"{repository}/{file}"):
        _fetch_resumed(repository, file)
        path = Path(huggingface_hub.hf_hub_download(repository, file))
    return path, *check_digest(path)


def fetch_model(repository: str, *, one_of: Sequence[str] = (), **arguments: Any) -> Path:
    """Fetch the files of a model that are text or tensors; returns their folder in the cache.

    one_of: files of which it must have one; another program's model is refused before its weights
    are fetched. arguments: revision, cache_dir, token, local_files_only and force_download of the
    hub's library. Weights whose SHA-256 is not the one that the hub tells are refused.
    """
    arguments = with_sendable_token(arguments)
    with saying_what_failed(repository):
        if not (arguments.get("local_files_only") or arguments.get("force_download")):
            names = _names(repository, arguments)
            if names:
                _check_has(repository, one_of, names)
            for file in names:
                if file.endswith(".safetensors"):
                    _fetch_resumed(repository, file, arguments)
        folder = Path(
            huggingface_hub.snapshot_download(
                repository, allow_patterns=list(READ_ONLY_KINDS), **arguments
            )
        )
    _check_has(repository, one_of, (path.name for path in folder.glob("*")))
    for path in folder.rglob("*.safetensors"):
        check_digest(path)
    return folder


def _names(repository: str, arguments: Mapping[str, Any]) -> list[str]:
    """Name the files of a model; none if the hub does not answer, which the library says."""
    try:
        return huggingface_hub.HfApi(token=arguments.get("token")).list_repo_files(
            repository, revision=arguments.get("revision")
        )
    except _FAILURES:
        return []


def _check_has(repository: str, one_of: Sequence[str], names: Iterable[str]) -> None:
    if one_of and set(one_of).isdisjoint(names):
        raise UserError(
            f"{repository}: no model of this package, as it has no {' or '.join(one_of)}"
        )


def _fetch_resumed(repository: str, file: str, arguments: Mapping[str, Any] = NOTHING) -> None:
    """Fetch a large file into the hub's cache, where the library finds it by its digest.

    Where the hub does not answer, nothing is done: the library finds the file, or says why not.
    arguments: as of `fetch_model`.
    """
    token, cache = arguments.get("token"), arguments.get("cache_dir")
    url = huggingface_hub.hf_hub_url(repository, file, revision=arguments.get("revision"))
    try:
        about = huggingface_hub.get_hf_file_metadata(url, token=token)
    except _FAILURES:
        return
    if about.etag is None or SHA256.fullmatch(about.etag) is None:
        return  # a small file
    folder = repo_folder_name(repo_id=repository, repo_type="model")
    blob = Path(cache or constants.HF_HUB_CACHE, folder, "blobs", about.etag)
    if blob.exists():
        return
    # The hub sends large files from another host, which gets no token: its addresses are signed.
    own = urlsplit(about.location).netloc == urlsplit(url).netloc
    remote = Remote(
        url=about.location,
        said=f"{repository}/{file}",
        size=about.size,
        headers=build_hf_headers(token=token) if own else {},
    )
    part = blob.with_name(f"{blob.name}.frozenseg.incomplete")  # `hf cache` knows the ending
    with fetched(remote, part), writing(blob):
        os.replace(part, blob)


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
