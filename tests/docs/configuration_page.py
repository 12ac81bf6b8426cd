"""Makes docs/api/configuration.md from `frozenseg/config_keys.py`: every key, its default, and its
comment.

    python -m tests.docs.configuration_page
"""

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import frozenseg.config_keys
from frozenseg.config import IGNORED
from frozenseg.config_keys import KEYS
from frozenseg.config_values import FIXED, Key, Range

PAGE = Path(__file__).resolve().parents[2] / "docs" / "api" / "configuration.md"
TYPES = {str: "text", bool: "`True`, `False`", tuple: "a list", list: "a list"}
HEAD = """# Configuration

<!-- Made by `python -m tests.docs.configuration_page` from frozenseg/config_keys.py; edit the comments there. -->

The defaults below are the published ConvNeXt-L + SAM ViT-B model and recipe. A YAML file overrides the defaults, and `KEY VALUE` pairs at the
end of a command line override the file. `_BASE_` in a file names another file that it builds on. An unknown key is an error that suggests
similar keys. Nothing in a YAML file is ever executed.

```bash
frozenseg demo --input demo/images/scene_1.png --vocabulary "car; sky" --output output/keys \\
  TEST.USE_SAM_MASKS False MODEL.MASK_FORMER.TEST.INSTANCE_ON False
```

In Python, pass a mapping instead of the pairs:

```python
import frozenseg

options = {"SOLVER.MAX_ITER": 100, "MODEL.DEVICE": "cpu"}
cfg = frozenseg.load_config("configs/small/frozenseg.yaml", options)
print(cfg.SOLVER.MAX_ITER)
```
"""


def explanations() -> dict[str, str]:
    """Key -> the comment above or behind its definition; "" where there is none."""
    source = Path(frozenseg.config_keys.__file__).read_text(encoding="utf-8")
    sections = {
        node.targets[0].id: node.value
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    return dict(_explained(sections["CONFIGURATION"], "", sections, _Comments(source)))


def page() -> str:
    """The text of the page."""
    words = explanations()
    lines = [HEAD]
    fixed = {name: key.default for name, key in KEYS.items() if key.rule is FIXED}
    sections: dict[str, list[str]] = {}
    for key in (key for key in KEYS if key not in fixed):
        sections.setdefault(key.rpartition(".")[0], []).append(key)
    for section, keys in sections.items():
        lines += [
            f"\n## {section or 'General'}\n",
            "| key | default | values | what |",
            "| --- | --- | --- | --- |",
        ]
        for key in keys:
            default, allowed = _code(KEYS[key].default), _allowed(KEYS[key])
            lines.append(f"| `{key}` | {default} | {allowed} | {words[key]} |")
    lines += [
        "\n## Keys with one value\n",
        "Only this value is supported; any other is an error.\n",
    ]
    lines += ["| key | value |", "| --- | --- |"]
    lines += [f"| `{key}` | {_code(value)} |" for key, value in fixed.items()]
    lines += ["\n## Keys without effect\n"]
    lines += ["Published files contain them. They are accepted, and named once in the log.\n"]
    lines += [f"- `{key}`" for key in IGNORED]
    return "\n".join(lines) + "\n"


def _code(value: Any) -> str:
    return '`""`' if value == "" else f"`{value}`"


def _allowed(key: Key) -> str:
    """The choices or the range of a key; else the type of its default."""
    if isinstance(key.rule, tuple):
        return ", ".join(f"`{choice}`" for choice in key.rule)
    return str(key.rule) if isinstance(key.rule, Range) else TYPES[type(key.default)]


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

    def of(self, node: ast.expr, value: ast.expr) -> str:
        """What stands behind an entry of a dict, else the block above it."""
        inside = range(node.lineno, (value.end_lineno or node.lineno) + 1)
        behind = [self.at[line] for line in inside if line in self.at]
        if behind:
            return " ".join(behind)
        above, line = [], node.lineno - 1
        while line in self.at and self.lines[line - 1].lstrip().startswith("#"):
            above.insert(0, self.at[line])
            line -= 1
        return " ".join(above)


def _explained(
    section: ast.expr, prefix: str, sections: dict[str, ast.expr], comments: _Comments
) -> Iterator[tuple[str, str]]:
    """Walk the keys of a section; prefix: its own key."""
    assert isinstance(section, ast.Dict)
    for key, value in zip(section.keys, section.values, strict=True):
        assert isinstance(key, ast.Constant)
        within = sections[value.id] if isinstance(value, ast.Name) else value
        if isinstance(within, ast.Dict):
            yield from _explained(within, f"{prefix}{key.value}.", sections, comments)
        else:
            yield f"{prefix}{key.value}", comments.of(key, value)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
