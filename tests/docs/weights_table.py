"""Makes the table of weights in docs/install.md out of `frozenseg/checkpoints/published_files.py`.

python -m tests.docs.weights_table
"""

from frozenseg.checkpoints.published_files import PUBLISHED, PublishedFile
from tests.docs.pages import ROOT

PAGE = ROOT / "docs" / "install.md"
BEGIN = "<!-- table of frozenseg/checkpoints/published_files.py -->\n"
END = "<!-- end of the table -->"
COLUMNS = ("name", "weights", "file", "from", "bytes", "SHA-256", "licence")


def table() -> str:
    head = _line(COLUMNS) + _line(("---",) * len(COLUMNS))
    return head + "".join(_row(name, row) for name, row in PUBLISHED.items())


def _line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |\n"


def _row(name: str, row: PublishedFile) -> str:
    size = "-" if row.size is None else f"{row.size:,}"
    digest = f"`{row.sha256}`" if row.sha256 else "-"
    file = f"`{row.saved_as}`"
    return _line((f"`{name}`", row.holds, file, _source(row), size, digest, row.licence))


def _source(row: PublishedFile) -> str:
    if row.on_hub is not None:
        repository, file = row.on_hub
        return f"Hugging Face `{repository}`, `{file}`"
    if row.address.startswith("drive:"):
        return f"Google Drive `{row.address.removeprefix('drive:')}`"
    return f"<{row.address}>"


def page() -> str:
    """The page with the table of now."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}{table()}{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
