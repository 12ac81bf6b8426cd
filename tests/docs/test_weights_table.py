"""The documents' table of weights is that of the package."""

from tests.docs.weights_table import PAGE, page


def test_the_table_of_weights_is_that_of_the_package() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m tests.docs.weights_table"
