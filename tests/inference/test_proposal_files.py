"""Proposals on disk: they are read as they were written, or the error is one clear line."""

from pathlib import Path

import numpy as np
import pytest
import torch

from frozenseg.encoders.frozen import weights_digest
from frozenseg.errors import UserError
from frozenseg.inference.proposal_files import ProposalFolder
from frozenseg.inference.proposals import Proposals

ABOUT = {"sam": "small", "stability": 0.5}


def some(count: int = 50, size: tuple[int, int] = (192, 256)) -> Proposals:
    """Return smooth blobs with noise, which resemble SAM's logits."""
    torch.manual_seed(0)
    coarse = torch.randn(count, 1, 6, 8)
    smooth = torch.nn.functional.interpolate(coarse, size=size, mode="bicubic")[:, 0]
    return Proposals.from_logits(
        12 * smooth - 4 + 0.3 * torch.randn(count, *size), torch.rand(count)
    )


@pytest.fixture
def folder(tmp_path: Path) -> ProposalFolder:
    return ProposalFolder(tmp_path / "masks", ABOUT, create=True)


IMAGE = torch.randint(0, 256, (3, 30, 40), dtype=torch.uint8)


def test_proposals_come_back_as_they_were(folder: ProposalFolder) -> None:
    proposals = some()
    folder.save("city/a_1", IMAGE, proposals)
    found = folder.load("city/a_1", IMAGE.float())  # the dtype of the network's input
    assert torch.equal(found.codes, proposals.codes)
    assert torch.equal(found.predicted_iou, proposals.predicted_iou)
    assert folder.path("city/a_1").parent == folder.folder


def test_images_may_have_long_names_in_any_script(folder: ProposalFolder) -> None:
    names = ["a" * 251, "b" * 255, *(f"{'中' * 84}{end}" for end in "yz")]
    for count, name in enumerate(names):
        folder.save(name, IMAGE, some(count, (6, 8)))
    folder.require(names)
    assert [len(folder.load(name, IMAGE)) for name in names] == [0, 1, 2, 3]
    assert folder.path(names[0]).stem == names[0]


def test_fifty_masks_of_a_full_size_sam_take_less_than_a_megabyte(folder: ProposalFolder) -> None:
    """SAM's masks have 256 cells along the longer side: 192 x 256 for an image of 3:4."""
    folder.save(1, IMAGE, some())
    assert folder.path(1).stat().st_size < 1_000_000


def test_an_image_without_proposals_can_be_stored(folder: ProposalFolder) -> None:
    folder.save(1, IMAGE, some(0))
    assert len(folder.load(1, IMAGE)) == 0


def test_masks_of_another_setting_are_refused(folder: ProposalFolder) -> None:
    with pytest.raises(UserError, match=r"other settings \(stability 0.5, not 0.7\)"):
        ProposalFolder(folder.folder, {**ABOUT, "stability": 0.7}, create=True)


def test_a_folder_that_holds_no_proposals_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="create one with frozenseg make_sam_masks"):
        ProposalFolder(tmp_path, ABOUT, create=False)


def test_a_missing_file_names_the_image(folder: ProposalFolder) -> None:
    with pytest.raises(UserError, match=r"7.npz: no such file; the folder lacks this image"):
        folder.load(7, IMAGE)
    assert not folder.has(7, IMAGE)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.95])
def test_a_file_that_was_cut_off_is_named_and_made_anew(
    folder: ProposalFolder, share: float
) -> None:
    folder.save(7, IMAGE, some(5))
    whole = folder.path(7).read_bytes()
    folder.path(7).write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UserError, match=r"7.npz: damaged"):
        folder.load(7, IMAGE)
    assert not folder.has(7, IMAGE)


def test_a_flipped_bit_is_noticed(folder: ProposalFolder) -> None:
    folder.save(7, IMAGE, some(5))
    content = bytearray(folder.path(7).read_bytes())
    content[len(content) // 3] ^= 1
    folder.path(7).write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        folder.load(7, IMAGE)


def test_masks_of_another_image_are_refused(folder: ProposalFolder) -> None:
    """Another data set may have images with the same numbers."""
    folder.save(7, IMAGE, some(5))
    other = IMAGE.clone()
    other[0, 0, 0] += 1
    with pytest.raises(UserError, match="made from another image with the id 7"):
        folder.load(7, other)


def test_the_digest_knows_every_weight() -> None:
    model = torch.nn.Linear(3, 2)
    before = weights_digest(model)
    with torch.no_grad():
        model.bias[1] += 1e-6
    assert weights_digest(model) != before


@pytest.mark.parametrize("content", ["[]", '"x"', "null", "5"])
def test_a_folder_whose_description_is_not_an_object_is_refused(
    folder: ProposalFolder, content: str
) -> None:
    (folder.folder / "proposals.json").write_text(content)
    with pytest.raises(UserError, match=r"proposals\.json: damaged, a JSON object was expected"):
        ProposalFolder(folder.folder, ABOUT, create=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda codes, quality: (codes[:, :3], quality),
        lambda codes, quality: (codes[:, :0, :0], quality),
        lambda codes, quality: (codes, quality * np.nan),
        lambda codes, quality: (codes, quality.astype(str)),
        lambda codes, quality: (codes.astype(float), quality),
        lambda codes, quality: (codes, quality[1:]),
    ],
)
def test_arrays_that_are_not_proposals_are_refused(folder: ProposalFolder, change) -> None:
    folder.save(7, IMAGE, some(5))
    with np.load(folder.path(7)) as file:
        codes, quality = change(file["codes"], file["predicted_iou"])
        np.savez(folder.path(7), codes=codes, predicted_iou=quality, pixels=file["pixels"])
    with pytest.raises(UserError, match=r"7\.npz: (not a file of|its masks do not have the shape)"):
        folder.load(7, IMAGE)
