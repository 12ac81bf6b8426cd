"""Read YAML files as plain tables, with limits on their size; nothing in them is executed.

Whatever cannot be used raises an error; nothing is dropped silently.
"""

import stat
from pathlib import Path
from typing import Any

import yaml

from frozenseg.errors import UserError
from frozenseg.files import resolve_packaged_path, user_path

# The key by which a file names its base file or files, whose values it overrides. Paths are
# relative to the file's own folder; `frozenseg://small/config.yaml` is the file of a model that
# ships with the package.
BASE = "_BASE_"
MOST_BYTES = 300_000
MOST_VALUES = 20_000  # after every alias is expanded
MOST_LEVELS = 30  # the maximum depth of nested tables and lists
MOST_FILES = 50  # the maximum number of files read for one configuration

# What PyYAML raises for text that does not fit its tag; `!!bool x`, for example, is a KeyError.
UNREADABLE = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, OverflowError)


class _Loader(yaml.SafeLoader):
    """A loader that leaves dates, and numbers not spelled as in Python, as text.

    YAML 1.1 reads 0100 as 64, 1:30 as 90 and 2026_11, which may be the name of a folder, as 202611.
    The text is converted later, where the type of its key is known (`frozenseg.config_values`).
    """

    def number(self, node: yaml.ScalarNode) -> int | float | str:
        is_int = node.tag.endswith(":int")
        try:
            value = self.construct_yaml_int(node) if is_int else self.construct_yaml_float(node)
            return value if str(value) == node.value else node.value
        except ValueError:  # more digits than Python converts
            return node.value


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.number)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.number)
_Loader.add_constructor("tag:yaml.org,2002:timestamp", lambda _, node: node.value)


def read_yaml(path: Path, what: str = "configuration") -> list[tuple[Path, dict[Any, Any]]]:
    """Return the tables of the files in `_BASE_`, then the table of `path`, each with its path.

    Raises a `UserError` that names the file if it is missing, is not a table, gives a key twice,
    is its own base (directly or not), or has tables nested too deeply or too many values.
    what: begins the error message.
    """
    tables: list[tuple[Path, dict[Any, Any]]] = []
    try:
        _add(path, (), tables)
    except UserError as error:
        raise UserError(f"{what} {error}") from None
    return tables


def _add(path: Path, chain: tuple[Path, ...], tables: list[tuple[Path, dict[Any, Any]]]) -> None:
    """Append the tables of `path` and its bases.

    chain: the files whose `_BASE_` led here, starting with the first.
    """
    place = path.resolve()
    if place in [above.resolve() for above in chain]:
        way = " -> ".join(str(step) for step in (*chain, path))
        raise UserError(f"{chain[0]}: its {BASE} leads back to itself ({way})")
    values = _table(path, _text(path, chain))
    bases = values.pop(BASE, [])
    for base in bases if isinstance(bases, list) else [bases]:
        if not isinstance(base, str) or not base:
            raise UserError(f"{path}: its {BASE} is {base!r}, the path of a YAML file was expected")
        _add(path.parent / user_path(resolve_packaged_path(base)), (*chain, path), tables)
    tables.append((path, values))
    if len(tables) > MOST_FILES:
        raise UserError(f"{path}: its {BASE} leads to more than {MOST_FILES} files")


def _text(path: Path, chain: tuple[Path, ...]) -> str:
    try:
        mode, size = path.stat().st_mode, path.stat().st_size
        if stat.S_ISREG(mode) and size > MOST_BYTES:
            raise UserError(f"{path}: {size:,} bytes are too many for a YAML file; give one")
        if stat.S_ISREG(mode):
            return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        if chain:
            raise UserError(f"{chain[-1]}: its {BASE} {path} is missing") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot be read ({error}); it must be text in UTF-8") from None
    if chain:
        raise UserError(f"{chain[-1]}: its {BASE} {path} is no file")
    raise UserError(f"{path}: no such file")


def _table(path: Path, text: str) -> dict[Any, Any]:
    try:
        loader = _Loader(text)  # refuses characters that YAML does not allow
        try:
            node = loader.get_single_node()
            if node is not None:
                _check(node, path)
                values = loader.construct_document(node)
        finally:
            loader.dispose()
    except RecursionError:
        raise _too_deep(path) from None
    except UNREADABLE as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{path}: cannot be read ({reason})") from None
    if node is None or not isinstance(values, dict):
        raise UserError(f"{path}: a table of keys was expected")
    return values


def _check(root: yaml.Node, path: Path) -> None:
    """Refuse tables nested too deeply, too many values, and keys given twice in one table.

    An alias counts each time it is used, because a few lines of nested aliases can expand to
    billions of values.
    """
    open_nodes, count = [(root, 1)], 0
    while open_nodes:
        node, level = open_nodes.pop()
        count += 1
        if level > MOST_LEVELS:
            raise _too_deep(path)
        if count > MOST_VALUES:
            raise UserError(f"{path}: more than {MOST_VALUES:,} values, aliases written out")
        if isinstance(node, yaml.MappingNode):
            _check_keys(node, path)
            open_nodes += [(part, level + 1) for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            open_nodes += [(part, level + 1) for part in node.value]


def _check_keys(node: yaml.MappingNode, path: Path) -> None:
    lines: dict[str, int] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise UserError(f"{path}: line {key.start_mark.line + 1}: a key must be a name")
        line = key.start_mark.line + 1
        if key.value in lines:
            raise UserError(
                f"{path}: {key.value} is given twice, in line {lines[key.value]} and "
                f"in line {line}; keep one of them"
            )
        lines[key.value] = line


def _too_deep(path: Path) -> UserError:
    return UserError(f"{path}: more than {MOST_LEVELS} tables or lists inside each other")
