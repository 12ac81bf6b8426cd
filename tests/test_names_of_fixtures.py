"""No test takes an argument that a well-known plugin of pytest knows as its own.

A parametrised argument of such a name ends the whole run where the plugin happens to be installed.
"""

import ast
from pathlib import Path

TAKEN = {
    *("benchmark", "benchmark_weave"),  # pytest-benchmark
    *("mocker", "class_mocker", "module_mocker", "session_mocker"),  # pytest-mock
    *("faker", "freezer", "httpserver", "requests_mock", "responses", "respx_mock"),
    *("client", "admin_client", "db", "rf", "settings", "live_server"),  # pytest-django, -flask
    *("worker_id", "testrun_uid"),  # pytest-xdist
    *("event_loop", "loop", "aiohttp_client", "anyio_backend", "nursery"),
    *("data_regression", "file_regression", "image_regression", "num_regression", "snapshot"),
    *("datadir", "shared_datadir", "original_datadir", "lazy_datadir"),
    *("page", "browser", "context", "selenium", "fs", "cov", "no_cover", "subtests", "extras"),
    *("metadata", "include_metadata_in_junit_xml", "doctest_namespace", "print_logs", "qtbot"),
}


def test_arguments_of_tests_are_no_plugin_s_fixtures() -> None:
    found = {}
    for path in Path(__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            fixture = isinstance(node, ast.FunctionDef) and any(
                "fixture" in ast.unparse(decorator) for decorator in node.decorator_list
            )
            if isinstance(node, ast.FunctionDef) and (fixture or node.name.startswith("test_")):
                names = {argument.arg for argument in node.args.args} | {node.name}
                found.update(dict.fromkeys(names & TAKEN, f"{path.name}: {node.name}"))
    assert found == {}
