"""Check the metadata of exported files, before anything is built from them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from frozenseg.data.json_fields import is_number
from frozenseg.encoders.sam import VIEWS
from frozenseg.errors import UserError
from frozenseg.inference.postprocess import PostProcessor
from frozenseg.inference.proposals import ProposalSettings
from frozenseg.text.templates import PLACE

Check = Callable[[Any], bool]
LONGEST_SIDE = 1 << 16  # pixels; no graph is larger


def check_model(path: Path, about: Mapping[str, Any], inputs: Mapping[str, Sequence[Any]]) -> None:
    """Raise `UserError` unless these are the metadata of a model that this version reads.

    inputs: the shapes of the graph's inputs, by name.
    """
    rules = about.get("rules")
    known = {field.name for field in fields(PostProcessor)}
    if not MODEL.keys() <= about.keys() or isinstance(rules, dict) and not known.issuperset(rules):
        raise UserError(
            f"{path}: is not a model that this version reads; it lies beside one, or is of version "
            f"{about.get('version', 'unknown')}; give the model's own file, or export it again"
        )
    _check(path, about, MODEL | {key: check for key, check in OPTIONAL.items() if key in about})
    window, pixels = about["window"], list(inputs.get("pixels", []))
    if len(about["training_names"]) != len(about["training_is_thing"]):
        raise _unusable(path, "training_is_thing", "not one flag for each class")
    if pixels and pixels[2:] != window:
        raise _unusable(path, "window", f"{window}, but the graph takes {pixels[2:]}")


def check_text(path: Path, about: Mapping[str, Any], fingerprint: str | None) -> None:
    """Raise `UserError` unless these are the metadata of a model's text tower.

    fingerprint: "text_fingerprint" of the model's metadata.
    """
    _check(path, about, TEXT)
    if fingerprint not in (None, about["text_fingerprint"]):
        raise of_another(path)


def of_another(path: Path) -> UserError:
    """Make the error for a file beside a model that was exported with another model."""
    return UserError(
        f"{path}: was not exported with the model beside it; copy the model's own file there, or "
        "export it again"
    )


def _check(path: Path, about: Mapping[str, Any], checks: Mapping[str, Check]) -> None:
    for key, check in checks.items():
        if not check(about.get(key)):
            raise _unusable(path, key, repr(about.get(key)))


def _unusable(path: Path, key: str, found: str) -> UserError:
    shown = found if len(found) <= 60 else f"{found[:60]}..."
    return UserError(f"{path}: its metadata {key!r} cannot be used ({shown}); export it again")


def _is_side(value: Any) -> bool:
    return type(value) is int and 0 < value <= LONGEST_SIDE


def _is_count(value: Any) -> bool:
    return value is None or type(value) is int and value > 0


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_text_or_none(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _list_of(check: Check) -> Check:
    """Check that a value is a list of at least one entry that passes `check`."""
    return lambda value: isinstance(value, list) and bool(value) and all(map(check, value))


def _fits(kind: Any) -> Check:
    """Check that a value is a JSON object of fields of the dataclass `kind`, each of the type of
    its default."""
    defaults = {field.name: field.default for field in fields(kind)}

    def check(value: Any) -> bool:
        return isinstance(value, dict) and all(
            name in defaults and _is_like(entry, defaults[name]) for name, entry in value.items()
        )

    return check


def _is_like(value: Any, default: Any) -> bool:
    if isinstance(default, bool):
        return isinstance(value, bool)
    if isinstance(default, float):
        return is_number(value)
    return _is_count(value) if default is None else type(value) is int and value >= 0


def _is_sam(value: Any) -> bool:
    """Check the entry "sam", which is null without SAM."""
    return value is None or (
        isinstance(value, dict)
        and value.get("view") in VIEWS
        and _is_text(value.get("name"))
        and _fits(ProposalSettings)(value.get("settings"))
    )


MODEL: dict[str, Check] = {
    "window": lambda value: _list_of(_is_side)(value) and len(value) == 2,
    "size_divisor": _is_side,
    "rules": _fits(PostProcessor),
    "training_names": _list_of(_list_of(_is_text)),
    "training_is_thing": _list_of(lambda value: isinstance(value, bool)),
    "templates": _list_of(lambda value: _is_text(value) and value.count(PLACE) == 1),
}
"""The entries of a model's metadata that a predictor needs."""
OPTIONAL: dict[str, Check] = {
    "note": _is_text_or_none,
    "vectors": _is_text_or_none,
    "text_fingerprint": _is_text_or_none,
    "added": lambda value: isinstance(value, str),
    "sam": _is_sam,
    "classes": _is_count,
    "names": _is_count,
}
TEXT: dict[str, Check] = {
    "context_length": _is_side,
    "clip": _is_text,
    "text_fingerprint": lambda value: isinstance(value, str),
}
"""The entries of the metadata of a text tower."""
