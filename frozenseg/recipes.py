"""Models and recipes (YAML files) that ship with the package and can be given by name.

A model is a folder with weights and a configuration, e.g. "small". A recipe is a file of `configs/`
and is named by the end of its path, e.g. "convnext_large_eval_ade20k" or "small/frozenseg".
"""

import os
import re
from importlib import resources
from pathlib import Path

from frozenseg.checkpoints.published_files import PUBLISHED
from frozenseg.errors import UserError, nearest
from frozenseg.files import shipped, user_path

# "frozenseg.yaml" comes first: it is our file where a folder also has a config.yaml of detectron2.
CONFIG_FILES = ("frozenseg.yaml", "config.yaml")


def packaged_models() -> list[str]:
    """Return the names of the models that ship with the package."""
    folders = (resources.files("frozenseg") / "model_zoo").iterdir()
    return sorted(folder.name for folder in folders if (folder / "config.yaml").is_file())


def published_models() -> list[str]:
    """Return the names of complete models that others have published (`frozenseg download`)."""
    return [name for name, row in PUBLISHED.items() if row.recipe]


def packaged_config(name: str) -> Path | None:
    """Return the YAML file of a model that ships with the package, or None if there is none."""
    path = resources.files("frozenseg") / "model_zoo" / name / "config.yaml"
    return Path(str(path)) if name in packaged_models() else None


def packaged_recipes() -> dict[str, Path]:
    """Return the recipes that ship with the package: full name, with folders -> YAML file."""
    folder = shipped("configs")
    files = sorted(folder.rglob("*.yaml"))
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in files}


def find_config(given: str | os.PathLike[str]) -> Path:
    """Return the YAML file for a path, or for the name of a recipe or a model.

    A file that exists, or a folder with one of `CONFIG_FILES`, e.g. the OUTPUT_DIR of a run, takes
    precedence over a recipe of that name. A recipe is found by the end of its path below
    "configs/", with or without ".yaml". Raises `UserError` for an unknown name, with the nearest
    names, and for a name that several recipes share.
    """
    path = user_path(given)
    if path.is_dir() and packaged_config(str(given)) is None:
        path = next((path / name for name in CONFIG_FILES if (path / name).is_file()), path)
    if path.exists() and not path.is_dir():
        return path
    recipes = packaged_recipes()
    name = path.as_posix().removesuffix(".yaml").removeprefix("configs/")
    found = [full for full in recipes if f"/{full}".endswith(f"/{name}")]
    if len(found) > 1:
        raise UserError(f"configuration {given}: several have this name: {', '.join(found)}")
    if found:
        return recipes[found[0]]
    if (model := packaged_config(str(given))) is not None:
        return model
    if str(given) in PUBLISHED and PUBLISHED[str(given)].recipe:
        return find_config(PUBLISHED[str(given)].recipe)
    short = [full.rpartition("/")[2] for full in recipes]
    known = sorted(
        {
            *recipes,
            *packaged_models(),
            *published_models(),
            *(s for s in short if short.count(s) == 1),
        }
    )
    close = nearest(name.rpartition("/")[2], known)
    if close.startswith("known: "):  # a list of all recipes would be too long, so name the models
        close = f"known models: {', '.join([*packaged_models(), *published_models()])}"
        if not path.is_dir() and re.fullmatch(r"[\w.-]+/[\w.-]+(?<!\.yaml)", str(given)):
            close += "; a model of the Hugging Face hub is loaded by frozenseg.from_pretrained"
    what = f"a folder without {CONFIG_FILES[-1]}" if path.is_dir() else "no such file"
    raise UserError(f"configuration {given}: {what}, and no recipe in the package; {close}")
