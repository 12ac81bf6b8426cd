"""Runs the notebooks of docs/notebooks in this process and keeps what their cells show.

    python -m tests.docs.notebooks

A cell's output is what it prints, and its last expression: a picture, or its text. This is what the
two notebooks use of Jupyter, which itself is no requirement of the project.
"""

import ast
import base64
import contextlib
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from tests.docs.pages import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def run(path: Path) -> dict[str, Any]:
    """The notebook with new outputs; run in the working folder of now, as it would be there."""
    notebook: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    names: dict[str, Any] = {"__name__": "__main__"}
    count = 0
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            count += 1
            cell["execution_count"] = count
            cell["outputs"] = _run_cell("".join(cell["source"]), names, f"{path.name}[{count}]")
    return notebook


def _run_cell(source: str, names: dict[str, Any], name: str) -> list[dict[str, Any]]:
    body = ast.parse(source).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(ast.Module(body, []), name, "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), name, "eval"), names)
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        lines = printed.getvalue().splitlines(keepends=True)
        outputs.append({"name": "stdout", "output_type": "stream", "text": lines})
    if value is not None:
        outputs.append({"data": _shown(value), "metadata": {}, "output_type": "display_data"})
    return outputs


def _shown(value: Any) -> dict[str, Any]:
    if not isinstance(value, Image.Image):
        return {"text/plain": [repr(value)]}
    data, picture = io.BytesIO(), value.convert("RGB")
    picture.thumbnail((720, 720))
    picture.save(data, "jpeg", quality=80)
    return {
        "image/jpeg": base64.b64encode(data.getvalue()).decode() + "\n",
        "text/plain": [f"<picture of {value.width} x {value.height} pixels>"],
    }


def main() -> None:
    """Run all notebooks in an empty folder and write their outputs into them."""
    for path in NOTEBOOKS:
        with tempfile.TemporaryDirectory() as folder:
            before = Path.cwd()
            os.chdir(folder)
            try:
                notebook = run(path)
            finally:
                os.chdir(before)
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
