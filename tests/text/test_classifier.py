"""Text vectors: their formula, and a cache that is never wrong and never in the way."""

import hashlib
import multiprocessing
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from frozenseg.text.classifier import TextClassifier, cache_folder
from frozenseg.text.templates import VILD
from frozenseg.text.vocabulary import Vocabulary

NAMES = ["car", "truck", "traffic light", "sky"]


class CountingEncoder:
    """Vectors made of a text's digest and of one weight; counts the texts it is given."""

    def __init__(self, weight: int = 0) -> None:
        self.weight, self.texts = weight, 0

    def encode_text(self, texts: list[str]) -> Tensor:
        self.texts += len(texts)
        return torch.stack([vector_of(text, self.weight) for text in texts])

    def text_fingerprint(self) -> str:
        return f"counting {self.weight}"


def vector_of(text: str, weight: int) -> Tensor:
    digest = hashlib.sha256(f"{weight} {text}".encode()).digest()
    return torch.tensor(list(digest[:16]), dtype=torch.float32) - 100


def expected_vector(name: str, weight: int = 0, templates: tuple[str, ...] = VILD) -> Tensor:
    """Normalise each template's vector, average, normalise; one name at a time, in float64."""
    total = torch.zeros(16, dtype=torch.float64)
    for template in templates:
        vector = vector_of(template.format(name), weight).double()
        total += vector / vector.norm()
    return (total / total.norm()).float()


def expected(names: list[str], **options: object) -> Tensor:
    return torch.stack([expected_vector(name, **options) for name in names])


def make(folder: Path | None, weight: int = 0, **options: object) -> TextClassifier:
    return TextClassifier(CountingEncoder(weight), folder=folder, **options)


def test_there_are_fourteen_templates_and_each_takes_the_name() -> None:
    assert len(VILD) == len(set(VILD)) == 14
    assert all(template.format("zebra").count("zebra") == 1 for template in VILD)


@pytest.mark.parametrize("on_disk", [True, False])
def test_vectors_follow_the_formula_in_any_order(tmp_path: Path, on_disk: bool) -> None:
    classifier = make(tmp_path if on_disk else None)
    torch.testing.assert_close(classifier.vectors(NAMES), expected(NAMES))
    names = ["sky", "car", "sky", "dog"]
    torch.testing.assert_close(classifier.vectors(names), expected(names))


def test_memory_holds_what_was_encoded() -> None:
    classifier = make(None)
    classifier.vectors(NAMES)
    assert classifier.encoder.texts == 14 * 4 and classifier.encoded == 4
    classifier.vectors(NAMES[::-1])
    assert classifier.encoder.texts == 14 * 4
    classifier.vectors([*NAMES, "dog", "dog"])
    assert classifier.encoder.texts == 14 * 5 and classifier.encoded == 5


def test_a_second_start_encodes_nothing(tmp_path: Path) -> None:
    make(tmp_path).vectors(NAMES)
    make(tmp_path).vectors(["dog"])
    second = make(tmp_path)
    ours = second.vectors([*NAMES, "dog"])
    assert second.encoder.texts == second.encoded == 0
    torch.testing.assert_close(ours, expected([*NAMES, "dog"]), atol=1e-6, rtol=0)
    assert second.vectors(["cat"]) is not None and second.encoder.texts == 14


def test_a_changed_weight_or_template_is_a_miss(tmp_path: Path) -> None:
    make(tmp_path).vectors(NAMES)
    changed = make(tmp_path, weight=1)
    torch.testing.assert_close(changed.vectors(NAMES), expected(NAMES, weight=1))
    assert changed.encoded == 4
    for templates in (VILD[:-1], VILD[::-1], ("a {}",)):
        other = make(tmp_path, templates=templates)
        torch.testing.assert_close(
            other.vectors(NAMES), expected(NAMES, templates=templates), atol=1e-6, rtol=1e-5
        )
        assert other.encoded == 4
    again = make(tmp_path)
    torch.testing.assert_close(again.vectors(NAMES), expected(NAMES))
    assert again.encoded == 0


def test_odd_names_are_kept_apart(tmp_path: Path) -> None:
    names = ["a", "name:a", "__metadata__", "🐶", "Ж", "a b", "name:", "../x"]
    make(tmp_path).vectors(names)
    second = make(tmp_path)
    torch.testing.assert_close(second.vectors(names), expected(names))
    assert second.encoded == 0


def write_many(folder: str, start: int, barrier: object) -> None:
    classifier = make(Path(folder))
    barrier.wait()
    for number in range(start, start + 12):
        classifier.vectors(["shared", f"name {number}"])


def test_two_processes_write_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    # 0..11 and 6..17: half of the names are encoded and written by both.
    processes = [
        context.Process(target=write_many, args=(str(tmp_path), start, barrier)) for start in (0, 6)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    names = ["shared", *(f"name {number}" for number in range(18))]
    reader = make(tmp_path)
    torch.testing.assert_close(reader.vectors(names), expected(names))
    assert reader.encoded == 0
    assert not list(tmp_path.rglob(".*"))  # no temporary file is left


def files_of(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty"])
def test_a_damaged_file_is_left_aside_and_renewed(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path).vectors(NAMES)
    (path,) = files_of(tmp_path)
    whole = path.read_bytes()
    path.write_bytes({"truncated": whole[:-20], "garbage": b"\x00 junk" * 9, "empty": b""}[damage])
    second = make(tmp_path)
    torch.testing.assert_close(second.vectors(NAMES), expected(NAMES))
    assert second.encoded == 4 and "is damaged" in caplog.text
    third = make(tmp_path)
    third.vectors(NAMES)
    assert third.encoded == 0


def test_a_file_damaged_after_it_was_listed(tmp_path: Path) -> None:
    make(tmp_path).vectors(NAMES)
    second = make(tmp_path)
    second.vectors(["dog"])  # the list of files is made here
    for path in files_of(tmp_path):
        path.unlink()
    torch.testing.assert_close(second.vectors(NAMES), expected(NAMES))


def test_a_folder_that_cannot_be_written_costs_time_not_the_result(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "file"  # a file where a folder should be; permissions mean nothing to root
    blocked.write_text("in the way")
    classifier = make(blocked / "text")
    torch.testing.assert_close(classifier.vectors(NAMES), expected(NAMES))
    assert "cannot be written" in caplog.text
    assert blocked.read_text() == "in the way"


def test_a_read_only_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(30, "Read-only file system")

    monkeypatch.setattr("frozenseg.files.tempfile.mkstemp", refuse)
    classifier = make(tmp_path)
    torch.testing.assert_close(classifier.vectors(NAMES), expected(NAMES))
    assert files_of(tmp_path) == []


def test_the_file_holds_one_vector_for_each_name(tmp_path: Path) -> None:
    make(tmp_path).vectors(NAMES)
    (path,) = files_of(tmp_path)
    stored = load_file(path)
    assert sorted(stored) == sorted(f"name:{name}" for name in NAMES)
    # A stored vector is believed: the proof that it is read and not made again.
    save_file({key: torch.full((16,), 0.25) for key in stored}, path)
    assert torch.equal(make(tmp_path).vectors(["car"]), torch.full((1, 16), 0.25))


def test_embed_joins_vectors_classes_and_seen_flags() -> None:
    vocabulary = Vocabulary.parse("car, truck; sky; zebra crossing")
    text = make(None).embed(vocabulary, Vocabulary.parse("truck; road; sky"))
    torch.testing.assert_close(text.weight, expected(vocabulary.flat_names))
    assert text.class_index.tolist() == [0, 0, 1, 2]
    assert text.seen.tolist() == [True, True, False] and text.num_classes == 3


def test_the_cache_lies_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FROZENSEG_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
    monkeypatch.delenv("FROZENSEG_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "frozenseg"
