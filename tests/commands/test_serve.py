"""What `frozenseg serve` refuses before it loads a model."""

import pytest

from frozenseg.commands import serve
from frozenseg.errors import UserError

for package in serve.NEEDED:
    pytest.importorskip(package, reason="pip install 'frozenseg[serve]'")


@pytest.mark.parametrize("host", ["a..b", ".local", "a" * 70])
def test_a_host_that_no_machine_can_be_called_is_named(host: str) -> None:
    with pytest.raises(UserError, match=rf"^--host {host} --port 0: not a valid host name; choose"):
        serve.main(["--host", host, "--port", "0"])


def test_a_setting_behind_the_devices_is_not_taken_for_one() -> None:
    with pytest.raises(UserError, match="^--device SEED: use .*; KEY VALUE pairs cannot follow"):
        serve.main(["--device", "cpu", "cuda:1", "SEED", "0"])


@pytest.mark.parametrize(
    "origin",
    [
        *("https://a.example/", "https://a.example/page", "a.example", "https://A.example", "*"),
        *("https://a.example:443", "http://a.example:80", "SEED"),
    ],
)
def test_an_origin_that_no_browser_sends_is_refused(origin: str) -> None:
    with pytest.raises(
        UserError, match="--allow-origin .*: not an origin that browsers send; write it"
    ):
        serve.main(["--allow-origin", "https://b.example", origin])


@pytest.mark.parametrize(
    "origin",
    ["https://a.example", "http://127.0.0.1:3000", "http://[::1]:8080", "https://a.example:80"],
)
def test_origins_of_browsers_are_taken(origin: str) -> None:
    with pytest.raises(UserError, match="--token-file none"):
        serve.main(["--allow-origin", origin, "--token-file", "none"])


def test_of_two_services_that_start_at_once_the_second_is_told_that_the_port_is_taken() -> None:
    with serve._listening("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port}: Address already in use; choose"):
            serve._listening("127.0.0.1", port)


@pytest.mark.parametrize("name", ["--config-file", "--model"])
def test_the_model_has_the_name_of_all_commands_and_its_former_one(name: str) -> None:
    assert serve._parser().parse_intermixed_args([name, "run"]).config_file == "run"
    assert serve._parser().parse_intermixed_args([]).config_file == "small"
    assert "--model" not in serve._parser().format_help()
