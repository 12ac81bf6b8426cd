"""YAML files as plain tables: bounded in size, nothing executed, nothing dropped without a word."""

import stat
from pathlib import Path
from typing import Any

import yaml

from frozenseg.errors import UserError
from frozenseg.files import resolve_packaged_path, user_path

# The key under which a file names the file, or the files, that it goes over: paths from its own
# folder, or `frozenseg://small/config.yaml` of a model that ships with the package.
BASE = "_BASE_"
MOST_BYTES = 300_000
MOST_VALUES = 20_000  # once every alias is written out
MOST_LEVELS = 30  # of tables and lists inside each other
MOST_FILES = 50  # read for one configuration

# What PyYAML raises for text that its tags do not fit; `!!bool x`, for one, is a KeyError.
_UNREADABLE = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, OverflowError)


class _Loader(yaml.SafeLoader):
    """Numbers that are not written as Python writes them, and dates, stay text: YAML 1.1 makes 64
    of 0100, 90 of 1:30 and 202611 of 2026_11, which may be the name of a folder. What a text
    stands for is decided where the type of its key is known (`frozenseg.config_values`)."""

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
    """Read the table of a file, behind those of the files in its `_BASE_`, each with its path.

    Whatever cannot be read is a `UserError` that names the file: no file, no table, a key that is
    given twice, bases that lead in a circle, tables too deep or too many. what: begins the message.
    """
    tables: list[tuple[Path, dict[Any, Any]]] = []
    try:
        _add(path, (), tables)
    except UserError as error:
        raise UserError(f"{what} {error}") from None
    return tables


def _add(path: Path, chain: tuple[Path, ...], tables: list[tuple[Path, dict[Any, Any]]]) -> None:
    """Append the tables of `path`; chain: the files that led here, from the first one on."""
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
        loader = _Loader(text)  # refuses characters that YAML has not
        try:
            node = loader.get_single_node()
            if node is not None:
                _check(node, path)
                values = loader.construct_document(node)
        finally:
            loader.dispose()
    except RecursionError:
        raise _too_deep(path) from None
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{path}: cannot be read ({reason})") from None
    if node is None or not isinstance(values, dict):
        raise UserError(f"{path}: a table of keys was expected")
    return values


def _check(root: yaml.Node, path: Path) -> None:
    """Refuse tables too deep, too many values, and keys that stand twice in one table.

    An alias counts as often as it is used: nested, a few lines of them spell billions of values.
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
                f"in line {line}; make one of the two"
            )
        lines[key.value] = line


def _too_deep(path: Path) -> UserError:
    return UserError(f"{path}: more than {MOST_LEVELS} tables or lists inside each other")
