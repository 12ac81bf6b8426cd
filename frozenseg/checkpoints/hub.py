"""Fetch files from the Hugging Face hub through its own library, with one-line errors.

After a kill, the library downloads a file from its beginning, because it names the partial file
differently in each process. Large files are therefore fetched by this module, which puts them where
the library finds them in its cache.
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
LONGEST_REASON = 500  # the maximum number of characters quoted from an error of the hub's library
SHA256 = re.compile(r"[0-9a-f]{64}")
READ_ONLY_KINDS = ("*.yaml", "*.json", "*.safetensors", "*.txt")
"""The files of a model that are fetched: text and tensors, which cannot execute code."""

# The library's errors derive from those of its HTTP library, which has changed more than once.
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
        # The first line holds only the status; the others state the request and the remedy.
        reason = textwrap.shorten(str(error), LONGEST_REASON)
        raise UserError(f"{repository}: the request to the hub failed ({reason})") from None


def with_sendable_token(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments for the hub's library whose token, if they have one, can be sent."""
    token = arguments.get("token")
    if token and isinstance(token, str):  # True and False say whether to use the stored token
        return {**arguments, "token": sendable_token(token)}
    return dict(arguments)


def fetch_hub_file(repository: str, file: str) -> tuple[Path, str, bool]:
    """Fetch a file into the hub's cache, or find it there.

    Returns the path, the SHA-256, and whether it was compared with a digest that the hub states.
    """
    with saying_what_failed(f"{repository}/{file}"):
        _fetch_resumed(repository, file)
        path = Path(huggingface_hub.hf_hub_download(repository, file))
    return path, *check_digest(path)


def fetch_model(repository: str, *, one_of: Sequence[str] = (), **arguments: Any) -> Path:
    """Fetch the files of a model that are text or tensors; returns their folder in the cache.

    one_of: the repository must have one of these files, so that a model of another program is
        refused before its weights are fetched.
    arguments: revision, cache_dir, token, local_files_only and force_download of the hub's library.

    Raises `UserError` for weights whose SHA-256 differs from the one that the hub states.
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
    """List the files of a model; returns [] if the hub does not answer, and leaves it to the
    library to report this."""
    try:
        return huggingface_hub.HfApi(token=arguments.get("token")).list_repo_files(
            repository, revision=arguments.get("revision")
        )
    except _FAILURES:
        return []


def _check_has(repository: str, one_of: Sequence[str], names: Iterable[str]) -> None:
    if one_of and set(one_of).isdisjoint(names):
        raise UserError(
            f"{repository}: not a model of this package, because it has no {' or '.join(one_of)}"
        )


def _fetch_resumed(repository: str, file: str, arguments: Mapping[str, Any] = NOTHING) -> None:
    """Fetch a large file into the hub's cache, where the library finds it by its digest.

    If the hub does not answer, nothing is done: the library then finds the file in its cache or
    reports the problem. arguments: as in `fetch_model`.
    """
    token, cache = arguments.get("token"), arguments.get("cache_dir")
    url = huggingface_hub.hf_hub_url(repository, file, revision=arguments.get("revision"))
    try:
        about = huggingface_hub.get_hf_file_metadata(url, token=token)
    except _FAILURES:
        return
    if about.etag is None or SHA256.fullmatch(about.etag) is None:
        return  # a small file, which the library fetches
    folder = repo_folder_name(repo_id=repository, repo_type="model")
    blob = Path(cache or constants.HF_HUB_CACHE, folder, "blobs", about.etag)
    if blob.exists():
        return
    # The hub usually sends large files from another host, at signed addresses that need no token;
    # that host must not receive the user's token.
    is_hub_itself = urlsplit(about.location).netloc == urlsplit(url).netloc
    remote = Remote(
        url=about.location,
        said=f"{repository}/{file}",
        size=about.size,
        headers=build_hf_headers(token=token) if is_hub_itself else {},
    )
    part = blob.with_name(f"{blob.name}.frozenseg.incomplete")  # `hf cache` knows this suffix
    with fetched(remote, part), writing(blob):
        os.replace(part, blob)


def check_digest(path: Path) -> tuple[str, bool]:
    """Return the SHA-256 of a file in the hub's cache, and whether the hub states a digest for it.

    In the cache, the name of a large file is the digest that the hub states. A file with a
    different digest is removed, and a `UserError` is raised.
    """
    blob = path.resolve()
    found = sha256_of(blob)
    is_stated = SHA256.fullmatch(blob.name) is not None
    if is_stated and found != blob.name:
        blob.unlink()
        path.unlink(missing_ok=True)
        raise UserError(
            f"{path.name}: has the SHA-256 {found}, but the hub states {blob.name}; fetch it again"
        )
    return found, is_stated
