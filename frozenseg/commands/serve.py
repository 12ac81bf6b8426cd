"""Serve a model over HTTP, with a web page to try it on pictures and words.

The page is at the printed address, and the interface for programs is described under /docs. Unless
--host is given, only this machine can reach the service.
"""

import argparse
import contextlib
import ipaddress
import logging
import re
import socket
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from frozenseg.commands.model_arguments import add_backend, backend_options, device_of
from frozenseg.errors import UserError
from frozenseg.files import user_path

logger = logging.getLogger(__name__)

NEEDED = ("fastapi", "uvicorn", "prometheus_client", "python_multipart", "httpx")
SHORTEST_TOKEN = 16  # characters
# An origin as browsers send it: without a path, in lower case, and without the default port.
ORIGIN = re.compile(r"(?!http://.*:80$|https://.*:443$)[a-z][a-z0-9+.-]*://[a-z0-9._:\[\]-]+")


def main(argv: list[str]) -> int | None:
    """Check what can be checked without the model, then serve until Ctrl-C or SIGTERM."""
    arguments = _parser().parse_intermixed_args(argv)
    absent = [name for name in NEEDED if find_spec(name) is None]
    if absent:
        raise UserError(f"{absent[0]} is not installed: pip install 'frozenseg[serve]'")
    _check_numbers(arguments)
    _check_origins(arguments.allow_origin)
    token = _token(arguments.token_file)
    if token is None and not _is_loopback(arguments.host):
        logger.warning(
            "%s: others can reach this service, and it requires no token (see --token-file)",
            arguments.host,
        )
    with _listening(arguments.host, arguments.port) as listener:
        failure = _serve(arguments, token, listener)
    if failure is not None:
        raise UserError(failure)
    return None


def _serve(arguments: argparse.Namespace, token: str | None, listener: socket.socket) -> str | None:
    """Run the server; return the reason if the model could not be loaded, else None."""
    import uvicorn

    from frozenseg.serve.app import make_app
    from frozenseg.serve.jobs import ModelInfo, ModelSource
    from frozenseg.serve.limits import Limits
    from frozenseg.serve.metrics import Metrics
    from frozenseg.serve.pool import Pool

    host, port = listener.getsockname()[:2]
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def ready(info: ModelInfo) -> None:
        print(f"{address} serves {pool.source.name} on {info.device}", flush=True)
        if info.note:
            logger.warning(info.note)

    def failed(line: str) -> None:
        server.should_exit = True

    options = (*backend_options(arguments), *arguments.options)
    pool = Pool(
        ModelSource(arguments.config_file, arguments.weights, options),
        arguments.device or [None],
        Limits(
            queue=arguments.max_queue,
            batch=arguments.batch_size,
            requests=4 * arguments.max_queue + 64,
            upload=arguments.max_upload_mb * 2**20,
            arrival=60 + 15 * arguments.max_upload_mb,  # a line of 0.6 Mbit/s is fast enough
            pixels=int(arguments.max_megapixels * 1e6),
        ),
        Metrics(),
        on_ready=ready,
        on_failure=failed,
    )
    app = make_app(pool, token=token, origins=tuple(arguments.allow_origin))
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=int(Limits.timeout),
        )
    )
    logger.info("%s: loading %s", address, pool.source.name)
    # After a signal, uvicorn finishes its requests and then raises the signal again.
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener])
    return pool.failure


def _listening(host: str, port: int) -> socket.socket:
    """Listen on the address before the model is loaded, which takes a while."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()  # two sockets may bind the same address as long as neither listens
    except (OSError, UnicodeError) as error:  # `UnicodeError`: a part of the name is not valid
        reason = error.strerror if isinstance(error, OSError) else "not a valid host name"
        raise UserError(
            f"--host {host} --port {port}: {reason}; choose another, or --port 0 for any free port"
        ) from None
    return listener


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _token(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--token-file {path}: cannot be read ({error})") from None
    if len(token) < SHORTEST_TOKEN or not token.isprintable() or " " in token:
        raise UserError(
            f"--token-file {path}: a token is one word of at least {SHORTEST_TOKEN} characters"
        )
    return token


def _check_origins(origins: list[str]) -> None:
    """Raise `UserError` for an origin that would match no page, such as an address with a path."""
    for origin in origins:
        if not ORIGIN.fullmatch(origin):
            raise UserError(
                f"--allow-origin {origin}: not an origin that browsers send; write it like "
                "https://a.example or http://a.example:8080, with nothing after it"
            )


def _check_numbers(arguments: argparse.Namespace) -> None:
    ranges: dict[str, tuple[Any, float, float]] = {
        "--port": (arguments.port, 0, 65535),
        "--max-queue": (arguments.max_queue, 1, 10_000),
        "--batch-size": (arguments.batch_size, 1, 64),
        "--max-upload-mb": (arguments.max_upload_mb, 1, 1024),
        "--max-megapixels": (arguments.max_megapixels, 0.01, 400),
    }
    for name, (value, least, most) in ranges.items():
        if not least <= value <= most:
            raise UserError(f"{name} {value}: must lie in {least:g}-{most:g}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="frozenseg serve", description=__doc__)
    add, default = parser.add_argument, "(default: %(default)s)"
    add(
        "--config-file",
        default="small",
        help=f"the model: a name, a YAML file, or the folder of a run {default}",
    )
    # The former name of --config-file, which still works.
    add("--model", dest="config_file", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    add("--weights", help="a checkpoint to use instead of the model's own")
    add(
        "--host",
        default="127.0.0.1",
        help=f"address of this machine to listen on {default}",
    )
    add("--port", type=int, default=8000, help=f"port to listen on; 0 chooses a free one {default}")
    add(
        "--device",
        nargs="+",
        type=device_of,
        metavar="DEVICE",
        help="devices, e.g. cuda:0 cuda:1; each runs a process with its own copy of the model "
        "(default: the best device)",
    )
    add_backend(parser)
    add(
        "--batch-size",
        type=int,
        default=4,
        help=f"largest number of images that the model processes at once {default}",
    )
    waiting = f"largest number of waiting images; more are refused (503) {default}"
    add("--max-queue", type=int, default=32, help=waiting)
    upload = f"largest request in MB; larger ones are refused {default}"
    add("--max-upload-mb", type=int, default=20, help=upload)
    image = f"largest image in megapixels; larger ones are refused {default}"
    add("--max-megapixels", type=float, default=40, help=image)
    token = "file with a token that every request must contain (default: no token)"
    add("--token-file", type=user_path, help=token)
    add(
        "--allow-origin",
        nargs="+",
        default=[],
        metavar="URL",
        help="other sites whose pages may call this service from a browser (default: none)",
    )
    add(
        "options",
        nargs="*",
        metavar="KEY VALUE",
        help="settings that override those of the YAML file",
    )
    return parser
