"""Text vectors: their formula, and a cache that is never wrong and never in the way."""

import hashlib
import logging
import multiprocessing
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from frozenseg.errors import TextTooLong, UserError
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


def test_a_long_list_is_encoded_in_portions_that_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("frozenseg.text.classifier.AT_ONCE", 3)
    asked: list[int] = []

    class Stopped(CountingEncoder):
        def encode_text(self, texts: list[str]) -> Tensor:
            asked.append(len(texts))
            if len(asked) == 3:
                raise KeyboardInterrupt
            return super().encode_text(texts)

    names = [f"thing {number}" for number in range(8)]
    with pytest.raises(KeyboardInterrupt):
        TextClassifier(Stopped(), folder=tmp_path).vectors(names)
    assert asked == [3 * 14, 3 * 14, 2 * 14]
    again = make(tmp_path)
    torch.testing.assert_close(again.vectors(names), expected(names))
    assert again.encoded == 2


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
    assert second.encoded == 4 and "damaged and left aside" in caplog.text
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


def renewed(stored: dict[str, Tensor], change: str) -> dict[str, Tensor]:
    """What a cache file may hold instead of what was written."""
    car, sky = stored["name:car"], stored["name:sky"]
    return (
        stored
        | {
            "nan": {"name:car": car * torch.nan},
            "one bit": {"name:car": torch.cat([car[:1].nextafter(car[:1] + 1), car[1:]])},
            "zeros": {"name:car": car * 0},
            "exchanged": {"name:car": sky, "name:sky": car},
            "another dimension": {"name:car": torch.cat([car, car])},
            "integers": {"name:car": car.int()},
        }[change]
    )


@pytest.mark.parametrize("digest", ["kept", "absent"])
@pytest.mark.parametrize(
    "change", ["nan", "one bit", "zeros", "exchanged", "another dimension", "integers"]
)
def test_a_changed_vector_is_made_again(
    tmp_path: Path, change: str, digest: str, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path).vectors(NAMES)
    (path,) = files_of(tmp_path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() if digest == "kept" else None
    save_file(renewed(load_file(path), change), path, metadata=metadata)
    second = make(tmp_path)
    torch.testing.assert_close(second.vectors(NAMES), expected(NAMES))
    assert second.encoded == 4
    assert ("damaged and left aside" in caplog.text) == (digest == "kept")
    third = make(tmp_path)  # the good file has taken the place of the bad one
    torch.testing.assert_close(third.vectors(NAMES), expected(NAMES))
    assert third.encoded == 0


def test_a_file_of_another_encoder_is_left_aside(tmp_path: Path) -> None:
    make(tmp_path).vectors(NAMES)
    make(tmp_path, weight=1).vectors(NAMES)
    first, second = files_of(tmp_path)
    first.write_bytes(second.read_bytes())
    for weight in (0, 1):
        found = make(tmp_path, weight=weight).vectors(NAMES)
        torch.testing.assert_close(found, expected(NAMES, weight=weight))


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.data())
def test_no_flipped_bit_and_no_cut_file_changes_a_vector(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("flip")
    make(folder).vectors(NAMES)
    (path,) = files_of(folder)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    path.write_bytes(content)
    torch.testing.assert_close(make(folder).vectors(NAMES), expected(NAMES))


def test_a_pipe_in_the_cache_is_passed_over(tmp_path: Path) -> None:
    make(tmp_path).vectors(NAMES)
    (path,) = files_of(tmp_path)
    os.mkfifo(path.with_name("pipe.safetensors"))
    second = make(tmp_path)
    second.vectors(NAMES)
    assert second.encoded == 0


@pytest.mark.parametrize("error", [OSError(28, "No space left"), SafetensorError("I/O error")])
def test_a_full_disk_costs_time_alone(
    tmp_path: Path,
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("frozenseg.tensor_store.save_file", refuse)
    torch.testing.assert_close(make(tmp_path).vectors(NAMES), expected(NAMES))
    assert "cannot be written" in caplog.text and files_of(tmp_path) == []


def test_a_cache_folder_whose_name_is_too_long(tmp_path: Path) -> None:
    classifier = make(tmp_path / ("a" * 300))
    torch.testing.assert_close(classifier.vectors(NAMES), expected(NAMES))


def test_vectors_that_are_no_numbers_are_not_kept(tmp_path: Path) -> None:
    classifier = make(tmp_path)
    classifier.encoder.encode_text = lambda texts: torch.full((len(texts), 16), torch.nan)
    assert classifier.vectors(NAMES).isnan().all() and files_of(tmp_path) == []


def test_a_name_that_is_too_long_is_named(tmp_path: Path) -> None:
    def refuse(texts: list[str]) -> Tensor:
        raise TextTooLong(texts[17], 17, 99, 77)

    classifier = make(tmp_path)
    classifier.encoder.encode_text = refuse
    with pytest.raises(UserError, match=r"the class name 'truck' is too long .* 99 tokens within"):
        classifier.vectors(NAMES)


def test_names_in_other_letters_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    classifier = make(None)
    for _ in range(2):
        classifier.vectors(["car", "naïve café", "собака", "🐶", "2"])
    assert caplog.text.count("2 of 5 names are not in Latin letters") == 1
    assert "собака, 🐶" in caplog.text


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


def test_without_a_home_folder_nothing_is_cached_on_disk(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("FROZENSEG_CACHE", "")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with caplog.at_level(logging.WARNING, "frozenseg"):
        assert cache_folder() is None
    assert "there is no home folder; set FROZENSEG_CACHE" in caplog.text
    monkeypatch.undo()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FROZENSEG_CACHE", "~/x")
    assert cache_folder() == tmp_path / "x"


def test_memory_is_bounded_and_the_disk_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("frozenseg.text.classifier.MOST_IN_MEMORY", 3)
    classifier = make(tmp_path, known={"known": torch.ones(16)})
    for number in range(6):
        classifier.vectors([f"name {number}", "known"])
    assert len(classifier._vectors) == 3
    torch.testing.assert_close(classifier.vectors(NAMES), expected(NAMES))  # more than it holds
    texts = classifier.encoder.texts
    torch.testing.assert_close(classifier.vectors(["name 0"])[0], expected_vector("name 0"))
    assert classifier.encoder.texts == texts  # read from the disk


def test_an_autocast_around_the_caller_is_not_kept(tmp_path: Path) -> None:
    class Rounding(CountingEncoder):
        def encode_text(self, texts: list[str]) -> Tensor:
            return super().encode_text(texts) @ torch.eye(16)  # which autocast rounds

    classifier = TextClassifier(Rounding(), folder=tmp_path)
    with torch.autocast("cpu", torch.bfloat16):
        found = classifier.vectors(NAMES)
    torch.testing.assert_close(found, expected(NAMES))


def test_names_that_are_kept_off_the_disk_are_not_written(tmp_path: Path) -> None:
    make(tmp_path).vectors(NAMES)
    classifier = make(tmp_path)
    classifier.keep_off_disk()
    torch.testing.assert_close(classifier.vectors([*NAMES, "dog"]), expected([*NAMES, "dog"]))
    assert classifier.encoded == 1 and len(files_of(tmp_path)) == 1  # what is there is read
    classifier.vectors(["dog"])
    assert classifier.encoded == 1
