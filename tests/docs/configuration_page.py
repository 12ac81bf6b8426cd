"""Makes docs/api/configuration.md out of `frozenseg/config.py`: every key, its default, and what is
said of it there.

    python -m tests.docs.configuration_page
"""

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import frozenseg.config
from frozenseg.config import FIXED, IGNORED, default_config

PAGE = Path(__file__).resolve().parents[2] / "docs" / "api" / "configuration.md"
HEAD = """# Configuration

<!-- Made by `python -m tests.docs.configuration_page` out of frozenseg/config.py; edit the comments there. -->

A YAML file sets keys over the defaults below, which are the published ConvNeXt-L + SAM ViT-B model and recipe; `KEY VALUE` pairs at
the end of a command line set keys over that, and `_BASE_` in a file names the file that it starts from. An unknown key is an error that
suggests the nearest ones. Nothing in a YAML file is ever executed.

```bash
frozenseg demo --input demo/images/scene_1.png --vocabulary "car; sky" --output output/keys \\
  TEST.USE_SAM_MASKS False MODEL.MASK_FORMER.TEST.INSTANCE_ON False
```

In Python a mapping takes the place of the pairs:

```python
import frozenseg

options = {"SOLVER.MAX_ITER": 100, "MODEL.DEVICE": "cpu"}
cfg = frozenseg.load_config("configs/small/frozenseg.yaml", options)
print(cfg.SOLVER.MAX_ITER)
```
"""


def default_values() -> dict[str, Any]:
    """Every key with dots, and its default, in the order of their definition."""
    return dict(_flat(default_config(), ""))


def explanations() -> dict[str, str]:
    """Key -> the comment above or behind its definition; "" where there is none."""
    source = Path(frozenseg.config.__file__).read_text(encoding="utf-8")
    functions = {
        node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)
    }
    return dict(_explained("default_config", "", functions, _Comments(source)))


def page() -> str:
    """The text of the page."""
    values, words = default_values(), explanations()
    lines = [HEAD]
    section = None
    for key, value in values.items():
        if key in FIXED:
            continue
        if (head := key.rpartition(".")[0]) != section:
            section = head
            lines += [
                f"\n## {section or 'General'}\n",
                "| key | default | what |",
                "| --- | --- | --- |",
            ]
        lines.append(f"| `{key}` | {_code(value)} | {words[key].replace('|', chr(92) + '|')} |")
    lines += ["\n## Keys with one value\n", "Only this value is built; another is an error.\n"]
    lines += ["| key | value |", "| --- | --- |"]
    lines += [f"| `{key}` | {_code(value)} |" for key, value in FIXED.items()]
    lines += ["\n## Keys without effect\n"]
    lines += ["Published files hold them; they are accepted and named once in the log.\n"]
    lines += [f"- `{key}`" for key in IGNORED]
    return "\n".join(lines) + "\n"


def _flat(node: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _code(value: Any) -> str:
    return '`""`' if value == "" else f"`{value}`"


class _Comments:
    """The comments of a Python file, by line."""

    def __init__(self, source: str) -> None:
        self.lines = source.splitlines()
        tokens = tokenize.generate_tokens(io.StringIO(source).readline)
        self.at = {
            token.start[0]: token.string.lstrip("# ")
            for token in tokens
            if token.type == tokenize.COMMENT
        }

    def of(self, node: ast.stmt) -> str:
        """What stands behind a statement, else the block above it."""
        inside = range(node.lineno, (node.end_lineno or node.lineno) + 1)
        behind = [self.at[line] for line in inside if line in self.at]
        if behind:
            return " ".join(behind)
        above, line = [], node.lineno - 1
        while line in self.at and self.lines[line - 1].lstrip().startswith("#"):
            above.insert(0, self.at[line])
            line -= 1
        return " ".join(above)


def _explained(
    name: str, prefix: str, functions: dict[str, ast.FunctionDef], comments: _Comments
) -> Iterator[tuple[str, str]]:
    """Walk the assignments of a function; prefix: the key of the node that it returns."""
    nodes: dict[str, str] = {}  # a variable -> the key of its node
    for statement in functions[name].body:
        if not isinstance(statement, ast.Assign):
            continue
        keys = [key for target in statement.targets if (key := _key(target, nodes)) is not None]
        new = [target.id for target in statement.targets if isinstance(target, ast.Name)]
        called = statement.value.func if isinstance(statement.value, ast.Call) else None
        made = called.id if isinstance(called, ast.Name) else ""
        nodes.update({variable: keys[0] + "." if keys else prefix for variable in new})
        if made in functions:
            yield from _explained(made, keys[0] + ".", functions, comments)
        elif made != "CN" and keys:
            yield keys[0], comments.of(statement)


def _key(target: ast.expr, nodes: dict[str, str]) -> str | None:
    """`mask.TEST.SEMANTIC_ON` with the node of `mask` in place of it."""
    parts: list[str] = []
    while isinstance(target, ast.Attribute):
        parts.insert(0, target.attr)
        target = target.value
    if not parts or not isinstance(target, ast.Name) or target.id not in nodes:
        return None
    return nodes[target.id] + ".".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
