"""Errors of a user reach another process as they are."""

import pickle

import pytest

from frozenseg.checkpoints.published_files import AbsentWeights
from frozenseg.checkpoints.state_dict import WeightsMismatch
from frozenseg.errors import MissingFileError, MissingPackageError, TextTooLong, UserError


@pytest.mark.parametrize(
    "error",
    [
        UserError("a: wrong"),
        MissingFileError("a: no such file"),
        MissingPackageError("a needs b"),
        TextTooLong("a name", 3, 90, 77),
        AbsentWeights("clip-rn50x64", "not here"),
        WeightsMismatch("no clip", "configuration", {"a": (1, 2)}),
    ],
)
def test_an_error_is_pickled_whatever_its_constructor_takes(error: UserError) -> None:
    """Else a pool of processes waits for ever for the one of a worker."""
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(error, protocol))
        assert type(again) is type(error)
        assert str(again) == str(error) and vars(again) == vars(error)
