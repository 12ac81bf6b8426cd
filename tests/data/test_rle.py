import numpy as np
import pytest
from pycocotools import mask as mask_util

from frozenseg.data.rle import (
    as_rles,
    checked_rle,
    decode_masks,
    encode_ids,
    encode_masks,
    encode_segmentation,
    rle_area,
    rle_box,
    rle_iou,
)
from frozenseg.errors import UserError

SIZE = (17, 301)
RNG = np.random.default_rng(0)
MASKS = np.stack(
    [RNG.random(SIZE) < share for share in (0, 1, 0.5, 0.001, 0.999)] + [np.eye(*SIZE, dtype=bool)]
)


def test_round_trip_and_all_spellings():
    codes = encode_masks(MASKS)
    for code, mask in zip(codes, MASKS, strict=True):
        assert (mask_util.decode(code) == mask).all()
    spellings = [{**code, "counts": code["counts"].encode()} for code in codes]
    runs = [np.flatnonzero(np.diff(np.r_[0, m.T.ravel().astype(int), 2])) for m in MASKS]
    plain = [{"size": list(SIZE), "counts": np.diff(r, prepend=0).tolist()} for r in runs]
    plain = [
        {**code, "counts": ([0] if mask[0, 0] else []) + [n for n in code["counts"] if n]}
        for code, mask in zip(plain, MASKS, strict=True)
    ]
    assert (
        as_rles(spellings, SIZE, "")
        == as_rles(plain, SIZE, "")
        == codes
        == as_rles(MASKS, SIZE, "")
    )


@pytest.mark.parametrize(
    "counts",
    [
        "",
        "0",
        "é",
        "\ud800",
        "nk99",
        "oooooooooo",
        "\x00",
        5,
        None,
        [1, 2],
        [-1, 5118],
        [10**30],
        ["a"],
    ],
)
def test_damaged_counts_are_found(counts):
    good = encode_masks(MASKS)
    codes = [*good[:3], {"size": list(SIZE), "counts": counts}, *good[3:]]
    with pytest.raises(UserError, match="^image 7, mask 3: "):
        as_rles(codes, SIZE, "image 7")


def test_cut_off_anywhere_is_found():
    code = encode_masks(MASKS[2:3])[0]
    for length in range(0, len(code["counts"]), 7):
        with pytest.raises(UserError, match="malformed RLE"):
            checked_rle({**code, "counts": code["counts"][:length]}, SIZE, "mask 0")


@pytest.mark.parametrize("code", [None, "text", {}, {"counts": "0"}, {"size": 5, "counts": "0"}])
def test_no_code_at_all(code):
    with pytest.raises(UserError):
        as_rles([code], SIZE, "image 7")


def test_encoding_equals_pycocotools_to_the_bit():
    large = np.zeros((1, 3000, 4000), dtype=bool)
    large[0, 7, 9] = large[0, :, 2000:] = True  # runs of up to five characters
    for masks in (MASKS, MASKS[:0], large):
        columns = np.asfortranarray(masks.transpose(1, 2, 0), dtype=np.uint8)
        theirs = mask_util.encode(columns) if len(masks) else []
        expected = [{**code, "counts": code["counts"].decode()} for code in theirs]
        assert encode_masks(masks) == expected


def test_polygons_boxes_areas_and_iou_are_those_of_pycocotools():
    height, width = SIZE
    codes, expected = [], []
    for count in range(3, 40):
        points = RNG.random((2, count, 2)) * (1.4 * width, 1.4 * height) - (0.2 * width, 3)
        polygons = points.reshape(2, -1).tolist()
        codes.append(encode_segmentation(polygons, height, width))
        expected.append(mask_util.merge(mask_util.frPyObjects(polygons, height, width)))
    assert [code["counts"] for code in codes] == [c["counts"].decode() for c in expected]
    assert [rle_area(code) for code in codes] == mask_util.area(expected).tolist()
    assert [rle_box(code) for code in codes] == mask_util.toBbox(expected).tolist()
    assert (rle_iou(codes, codes[:5]) == mask_util.iou(expected, expected[:5], [0] * 5)).all()
    decoded = mask_util.decode(expected).transpose(2, 0, 1)
    assert (decode_masks(codes, SIZE) == decoded).all()


def test_all_masks_of_a_map_are_encoded_as_each_alone() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        ids = random.integers(0, 4, random.integers(1, 9, 2)).astype(np.int32)
        numbers = [0, 1, 2, 3, 9]
        expected = encode_masks(ids == np.array(numbers)[:, None, None])
        assert encode_ids(ids, numbers) == expected


def test_masks_that_are_encoded_together_are_encoded_as_each_alone() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        count, *size = random.integers(1, 9, 3)
        masks = random.random((count, *size)) < random.choice([0.0, 0.2, 0.8, 1.0])
        expected = [code for mask in masks for code in encode_masks(mask[None])]
        assert encode_masks(masks) == expected
    assert encode_masks(masks[:0]) == encode_ids(masks[0].astype(np.int32), []) == []
