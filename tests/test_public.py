"""The public names: each says how it is used, and the example does what it says."""

import doctest
import inspect
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

import frozenseg
from tests.engine.tiny import TinyRun, assert_same_scores

NAMES = [name for name in frozenseg.__all__ if name != "__version__"]


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TinyRun:
    """In the working directory: a recipe of seconds with its data, and a picture."""
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    run = TinyRun(tmp_path)
    sets = f'DATASETS: {{TRAIN: ["{run.dataset}"], TEST: ["{run.dataset}"]}}\n'
    (tmp_path / "recipe.yaml").write_text(run.config.read_text() + sets)
    Image.new("RGB", (96, 64), (90, 120, 150)).save(tmp_path / "street.png")
    return run


@pytest.mark.parametrize("name", NAMES)
def test_the_example_of_a_public_name(
    name: str, recipe: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", {**os.environ})  # `configure_allocator` writes there
    thing = getattr(frozenseg, name)
    examples = doctest.DocTestFinder(recurse=False).find(
        thing, name, module=inspect.getmodule(thing), globs={"frozenseg": frozenseg}
    )
    assert examples and examples[0].examples, f"{name} has no example"
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS, verbose=False)
    assert runner.run(examples[0]).failed == 0


def test_the_docstring_of_the_package_lists_the_public_names() -> None:
    lines = [line.split() for line in (frozenseg.__doc__ or "").splitlines()]
    listed = {words[0] for words in lines if words}
    assert set(NAMES) <= listed


def test_training_and_evaluation_leave_the_configuration_as_it_is(recipe: TinyRun) -> None:
    options = {"OUTPUT_DIR": "out", "SOLVER.MAX_ITER": 2, "SOLVER.STEPS": ()}
    cfg = frozenseg.load_config("recipe.yaml", options, freeze=False)
    before = cfg.dump()
    first = frozenseg.train(cfg)
    assert first.finished
    # What is scored is what was trained, in the same folder.
    assert_same_scores(frozenseg.evaluate(cfg), first.scores)
    with pytest.raises(frozenseg.UserError, match="another run"):
        frozenseg.train(cfg)
    cfg.SOLVER.MAX_ITER = 3
    assert frozenseg.train(cfg, resume=True).step == 3
    cfg.SOLVER.MAX_ITER = 2
    assert cfg.dump() == before and not cfg.is_frozen()


def test_training_and_evaluation_do_without_the_defaults_of_the_process(recipe: TinyRun) -> None:
    options = {"OUTPUT_DIR": "out", "SOLVER.MAX_ITER": 1, "SOLVER.STEPS": ()}
    cfg = frozenseg.load_config("recipe.yaml", options)
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        trained = frozenseg.train(cfg)
        scores = frozenseg.evaluate(cfg)
        assert torch.get_default_dtype() == torch.float64
        assert torch.get_default_device().type == "meta"
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    assert_same_scores(scores, trained.scores)


def test_a_model_without_weights_is_no_public_name() -> None:
    from frozenseg.build import build_model

    assert "build_model" not in frozenseg.__all__ and callable(build_model)
