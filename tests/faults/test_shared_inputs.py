"""The files of an earlier campaign, each given to its reader; where they are not there, a skip."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from frozenseg.checkpoints.state_dict import read_state
from frozenseg.config import load_config
from frozenseg.data.coco_json import read_categories, read_instance_file
from frozenseg.data.images import read_image
from frozenseg.data.label_maps import read_labels, read_panoptic_ids
from frozenseg.data.panoptic_json import read_panoptic_entries
from frozenseg.errors import UserError
from frozenseg.evaluation.prediction_files import read_detections
from frozenseg.files import read_json
from frozenseg.inference.proposal_files import ProposalFolder
from frozenseg.text.vocabulary import Vocabulary

INPUTS = Path(
    os.environ.get(
        "FROZENSEG_FAULT_INPUTS", Path(__file__).resolve().parents[3] / "shared" / "fault_inputs"
    )
)


def _configuration(path: Path) -> None:
    """The base of these files is elsewhere; the small model's takes its place."""
    text = re.sub(r"_BASE_: \.\./.*", "_BASE_: frozenseg://small/config.yaml", path.read_text())
    Path(path.name).write_text(text)
    load_config(Path(path.name))


def _instances(path: Path) -> None:
    read_instance_file(read_json(path), str(path))


def _panoptic(path: Path) -> None:
    content = read_json(path)
    categories = read_categories(content, str(path), panoptic=True)
    read_panoptic_entries(content, categories, str(path))


def _results(path: Path) -> None:
    read_detections(read_json(path), str(path), {1, 2, 3}, {1, 2, 3})


def _proposals(path: Path) -> None:
    Path("proposals.json").write_text('{"version": 1}')
    Path("1.npz").write_bytes(path.read_bytes())
    ProposalFolder(Path(), {}, create=False).load(1, torch.zeros(3, 4, 5))


def _about(path: Path) -> None:
    Path("proposals.json").write_bytes(path.read_bytes())
    ProposalFolder(Path(), {}, create=False)


# pattern, reader
REFUSED: list[tuple[str, Callable[[Path], object]]] = [
    ("weights/*", read_state),
    ("yaml/*", _configuration),
    ("vocabulary/dup.txt", Vocabulary.from_file),
    ("vocabulary/sec.txt", Vocabulary.from_file),
    ("vocabulary/csv.txt", Vocabulary.from_file),
    ("data/gt_*.json", _instances),
    ("data/deep.json", _instances),
    ("data/lvis_polygon_nested.json", _instances),
    ("data/lvis_rle_runs_wrap.json", _instances),
    ("data/pred_score_1e400.json", _results),
    ("data/tiny/category_*.json", _panoptic),
    ("data/tiny/segment_id_5.5.json", _panoptic),
    ("data/tiny/file_name_surrogate.json", _panoptic),
    ("images/truncated.png", read_image),
    ("images/postscript_named_holiday.jpg", read_image),
    ("images/fuzzed_spider.spi", read_image),
    ("images/fuzzed_panoptic.*", read_panoptic_ids),
    ("images/fuzzed_panoptic.*", read_labels),
    ("caches/npy_named.npz", _proposals),
    ("caches/proposals_list.json", _about),
]


def _found() -> list[tuple[Path, Callable[[Path], object]]]:
    return [(path, read) for pattern, read in REFUSED for path in sorted(INPUTS.glob(pattern))]


def test_the_files_are_there() -> None:
    if not INPUTS.is_dir():
        pytest.skip(f"no inputs at {INPUTS} (set FROZENSEG_FAULT_INPUTS)")
    assert {pattern for pattern, _ in REFUSED if not list(INPUTS.glob(pattern))} == set()


@pytest.mark.parametrize(
    ("path", "read"), [pytest.param(path, read, id=path.name) for path, read in _found()]
)
def test_is_refused_by_one_line(
    path: Path, read: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        read(path)
    assert "\n" not in str(caught.value)
