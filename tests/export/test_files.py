"""Exported files: written by the command, loaded by `frozenseg.load`, run without this package."""

import copy
import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

import frozenseg
from frozenseg.build import exported as exported_files
from frozenseg.build.exported import ExportedPredictor
from frozenseg.commands.export import main
from frozenseg.devtools.tiny import TINY
from frozenseg.errors import MissingFileError, UserError
from frozenseg.export import agreement, formats, sam_parts, write
from frozenseg.export import text as text_files
from frozenseg.export.agreement import LIMITS
from frozenseg.export.precision import lower_precision
from frozenseg.export.session import OnnxModel
from frozenseg.export.text import vectors_digest
from frozenseg.files import shipped
from frozenseg.structures import ImageBatch
from tests.conftest import FC_CLIP_OPTIONS

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
needs_onnx = pytest.mark.skipif(
    any(find_spec(name) is None for name in PACKAGES),
    reason='needs the extra "onnx": pip install "frozenseg[onnx]"',
)
EXAMPLE = Path(__file__).resolve().parents[2] / "demo" / "export" / "segment.py"
SCENE = shipped("demo") / "images" / "scene_1.png"
WORDS = "circle; square; triangle; sky; grass; water; sand"
# What the example imports, and what these import in turn. PyTorch is not among them.
WITHOUT_TORCH = (
    *("numpy", "numpy.libs", "PIL", "pillow.libs", "onnxruntime", "flatbuffers", "google"),
    *("coloredlogs", "humanfriendly", "packaging"),
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped small model for 192 x 256 pixels, with panoptic and semantic results."""
    path = tmp_path_factory.mktemp("exported") / "small.onnx"
    main(["--size", "192x256", "--output", str(path), "--vocabulary", WORDS])
    return path


@needs_onnx
@pytest.mark.slow
def test_the_predictor_over_onnx_runtime_finds_what_the_model_finds(exported: Path) -> None:
    options = {"TEST.USE_SAM_MASKS": False}
    with frozenseg.load("small", device="cpu", options=options) as ours:
        with frozenseg.load(exported) as other:
            assert isinstance(other, ExportedPredictor)
            assert other.training_vocabulary == ours.training_vocabulary
            # It fills the window: ours would pad it less, and padding is seen by the network.
            pixels = np.asarray(Image.open(SCENE).convert("RGB").resize((256, 192)))
            ours.resize = other.resize  # type: ignore[method-assign]
            first, second = ours(pixels, WORDS), other(pixels, WORDS)
            # A name whose vector is in no file is encoded by the text tower beside the model.
            names = frozenseg.Vocabulary.parse("a red star; rain")
            torch.testing.assert_close(other.embed(names).weight, ours.embed(names).weight)
            several = other.batch([pixels, pixels[:90]], WORDS)
    assert (first.semantic == second.semantic).mean() > 0.999
    assert (first.panoptic.ids == second.panoptic.ids).mean() > 0.999
    labels = [segment.name for segment in first.panoptic.segments]
    assert labels == [segment.name for segment in second.panoptic.segments]
    assert (several[0].panoptic.ids == second.panoptic.ids).all()
    assert several[1].panoptic.ids.shape == (90, pixels.shape[1])


@needs_onnx
@pytest.mark.slow
def test_without_the_text_tower_only_exported_names_are_known(exported: Path) -> None:
    tower = exported.with_name("small.text.onnx")
    away = tower.rename(tower.with_suffix(".away"))
    try:
        with frozenseg.load(exported) as segmenter:
            assert segmenter(SCENE, "circle; sky").panoptic is not None
            with pytest.raises(MissingFileError, match="copy it beside the model"):
                segmenter(SCENE, "circle; unheard of")
    finally:
        away.rename(tower)


@needs_onnx
@pytest.mark.slow
def test_the_example_runs_where_there_is_no_torch(exported: Path, tmp_path: Path) -> None:
    bare, result = tmp_path / "site", tmp_path / "result.png"
    bare.mkdir()
    for folder in map(Path, sys.path):
        for name in WITHOUT_TORCH:
            if (folder / name).is_dir() and not (bare / name).exists():
                (bare / name).symlink_to(folder / name)
    # -S leaves out the packages of the environment.
    python = [sys.executable, "-S"]
    environment = {**os.environ, "PYTHONPATH": str(bare)}
    for absent in ("torch", "frozenseg"):
        tried = subprocess.run([*python, "-c", f"import {absent}"], env=environment, cwd=tmp_path)
        assert tried.returncode, f"{absent} is there"
    files = [exported, exported.with_name("small.vectors.npz"), SCENE, result]
    done = subprocess.run(
        [*python, str(EXAMPLE), *map(str, files)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert not done.returncode, done.stderr
    with frozenseg.load(exported) as segmenter:
        expected = segmenter(SCENE, WORDS, threshold=0)
    found = [line.partition(":")[0] for line in done.stdout.splitlines()]
    assert found == [segment.name for segment in expected.panoptic.segments]
    assert Image.open(result).size == Image.open(SCENE).size


STAND_IN = """
import json
from types import SimpleNamespace
import numpy as np


class InferenceSession:
    def __init__(self, path, providers):
        pass

    def get_modelmeta(self):
        return SimpleNamespace(custom_metadata_map={"frozenseg": json.dumps({"window": [60, 90]})})

    def get_inputs(self):
        return [SimpleNamespace(name="pixels"), SimpleNamespace(name="size")]

    def run(self, names, inputs):
        print("size", *inputs["size"])
        return np.zeros((60, 90), np.int64), [], []
"""


@pytest.mark.parametrize(
    ("size", "turn", "shown", "taken"),
    [((5000, 1), 1, (5000, 1), "1 90"), ((30, 60), 6, (60, 30), "45 90")],
)
def test_the_example_takes_narrow_pictures_and_turned_ones(
    tmp_path: Path, size: tuple[int, int], turn: int, shown: tuple[int, int], taken: str
) -> None:
    (tmp_path / "onnxruntime.py").write_text(STAND_IN)
    words = {"names": ["sky"], "class_index": [0], "seen": [True]}
    np.savez(tmp_path / "words.npz", **{key: np.array(value) for key, value in words.items()})
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turn
    Image.new("RGB", size).save(tmp_path / "in.png", exif=exif)
    files = ["model.onnx", "words.npz", "in.png", "out.png"]
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), *files],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"size {taken}\n"
    assert Image.open(tmp_path / "out.png").size == shown


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_lower_precisions_keep_metadata_and_most_of_the_result(
    exported: Path, tmp_path: Path, precision: str
) -> None:
    path = tmp_path / "small.onnx"
    for name in ("small.onnx", "small.vectors.npz"):
        (tmp_path / name).write_bytes(exported.with_name(name).read_bytes())
    lower_precision(path, precision)
    assert path.stat().st_size < 0.8 * exported.stat().st_size
    with frozenseg.load(exported) as first, frozenseg.load(path) as second:
        truth, found = first(SCENE, WORDS), second(SCENE, WORDS)
    assert (truth.semantic == found.semantic).mean() > LIMITS[precision].pixels


@needs_onnx
def test_a_file_of_others_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "other.onnx"
    with pytest.raises(MissingFileError, match="frozenseg export"):
        frozenseg.load(path)
    path.write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot load it"):
        frozenseg.load(path)
    with pytest.raises(UserError, match="neither weights, options nor backend"):
        frozenseg.load(path, options={"SEED": 1})


@needs_onnx
def test_a_file_beside_a_model_or_of_another_version_is_one_line(tmp_path: Path) -> None:
    import onnx

    path = tmp_path / "small.text.onnx"
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    same = onnx.helper.make_node("Identity", ["x"], ["y"])
    graph = onnx.helper.make_graph([same], "g", [value], [copy.deepcopy(value)])
    graph.output[0].name = "y"
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
    model.ir_version = 10
    of_text = {"version": "0.1.0", "rules": {}, "clip": "tiny", "context_length": 77}
    newer = {**ABOUT, "version": "9.0.0", "rules": {"unheard_of": 1}}
    for about, message in ((of_text, "it lies beside one"), (newer, "9.0.0"), ([1], "not written")):
        onnx.helper.set_model_props(model, {"frozenseg": json.dumps(about)})
        onnx.save(model, path)
        with pytest.raises(UserError, match=message):
            frozenseg.load(path)


ABOUT = {
    **{"window": [64, 96], "size_divisor": 32, "rules": {}, "templates": ["a {}."]},
    **{"training_names": [["lamp"]], "training_is_thing": [True]},
}


def loaded_with(
    about: dict[str, object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str = "model.onnx",
) -> ExportedPredictor:
    """A predictor over a graph that computes nothing."""
    shapes = {"pixels": [1, 3, 64, 96], "vectors": ["names", 32]}
    session = SimpleNamespace(about={**ABOUT, **about}, inputs=shapes)
    monkeypatch.setattr(exported_files, "open_session", lambda *arguments: session)
    return exported_files.load_exported(tmp_path / name, None)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("window", value) for value in (None, ["64", "64"], [64], [0, 96], [64, 64])),
        *(("size_divisor", value) for value in (0, "32", True)),
        *(("rules", value) for value in ([], {"overlap_threshold": "x"}, {"panoptic": 1})),
        ("rules", {"detections_per_image": -1}),
        *(("templates", value) for value in (5, [], ["no place"], [{}])),
        *(("training_names", value) for value in ([], [[1]], ["lamp"], [[]])),
        *(("training_is_thing", value) for value in ([], [1], [True, True])),
        *(("note", 5), ("added", None), ("classes", "2")),
        ("sam", {"name": "tiny", "view": "keep_aspect", "settings": {"max_masks": "9"}}),
    ],
)
def test_metadata_that_cannot_be_used_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: object
) -> None:
    with pytest.raises(UserError, match=rf"its metadata '{key}' cannot be used .*export it again"):
        loaded_with({key: value}, tmp_path, monkeypatch)


@pytest.mark.parametrize("known", [True, False])  # older models do not know their vectors
def test_vectors_of_another_model_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    names, right = ["lamp", "wall"], torch.nn.functional.normalize(torch.randn(2, 32))
    about: dict[str, object] = {"vectors": vectors_digest(names, right)} if known else {}
    wrong = [
        right[:, :4],
        right.double(),
        right * torch.nan,
        right[:, 0],
        right[:1],
        right[:, None],
    ]
    for vectors in [right, *wrong, *([right.flip(0)] if known else [])]:
        np.savez(tmp_path / "model.vectors.npz", names=names, vectors=vectors)
        if vectors is right:
            with loaded_with(about, tmp_path, monkeypatch) as segmenter:
                words = frozenseg.Vocabulary.parse("wall; lamp")
                assert segmenter.embed(words).weight.equal(right.flip(0))
            continue
        with pytest.raises(UserError, match="vectors.npz: (was not exported with|holds no)"):
            loaded_with(about, tmp_path, monkeypatch)


def test_vectors_that_would_fill_the_memory_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "LARGEST", 100_000)
    np.savez_compressed(tmp_path / "model.vectors.npz", names=["a"], vectors=np.zeros((1, 30_000)))
    with pytest.raises(UserError, match=r"vectors.npz: holds 0.0 GB unpacked; get the file again"):
        loaded_with({}, tmp_path, monkeypatch)


def test_a_text_tower_and_a_sam_of_another_model_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    abouts: dict[str, dict[str, object]] = {
        "model.onnx": {**ABOUT, "text_fingerprint": "one"},
        "model.text.onnx": {"clip": "tiny", "context_length": 77, "text_fingerprint": "two"},
    }

    def opened(path: Path, *arguments: object) -> SimpleNamespace:
        return SimpleNamespace(about=abouts[path.name], inputs={})

    monkeypatch.setattr(exported_files, "open_session", opened)
    (tmp_path / "model.text.onnx").touch()
    with pytest.raises(UserError, match=r"model.text.onnx: was not exported with the model"):
        exported_files.load_exported(tmp_path / "model.onnx", None)
    abouts["model.text.onnx"]["clip"] = None
    with pytest.raises(UserError, match=r"model.text.onnx: its metadata 'clip' cannot be used"):
        exported_files.load_exported(tmp_path / "model.onnx", None)
    sam = {"name": "tiny", "view": "keep_aspect", "settings": {}, "weights": "one"}
    abouts["model.onnx"]["sam"] = sam
    abouts |= {f"model.{part}.onnx": {**sam, "weights": "two"} for part in sam_parts.PARTS}
    with pytest.raises(UserError, match=r"model.encoder.onnx: was not exported with the model"):
        exported_files.load_exported(tmp_path / "model.onnx", None)


def test_a_graph_with_fixed_classes_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = loaded_with({"classes": 2, "names": 3}, tmp_path, monkeypatch)
    assert isinstance(predictor.model, OnnxModel)
    images = ImageBatch(torch.zeros(1, 3, 64, 96), [(64, 96)])
    with pytest.raises(UserError, match="4 classes with 5 names: this graph takes 2 with 3"):
        predictor.model.predict(images, agreement.random_words(4, 5, 8).text)


@pytest.mark.parametrize(
    ("name", "sizes", "tower"),
    [
        ("tiny_64x96.pt2", "64x96", "tiny_64x96.text.onnx"),
        ("tiny.pt2", "64x96,64x64", "tiny.text.onnx"),
    ],
)
def test_files_beside_a_model_are_found_if_its_own_name_ends_in_a_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, sizes: str, tower: str
) -> None:
    abouts: dict[str, dict[str, object]] = {}

    def write_graph(results: object, words: object, path: Path, about: dict, **parts: bool) -> list:
        abouts[path.name] = about
        path.touch()
        return []

    monkeypatch.setattr(exported_files, "write_graph", write_graph)
    line = ["--format", "torch", "--size", sizes, "--output", str(tmp_path / name)]
    line += ["--config-file", "fc_clip_convnext_large", "--vocabulary", "lamp; wall"]
    main([*line, *TINY, "MODEL.ALLOW_RANDOM_WEIGHTS", "True"])
    file = "tiny_64x96.pt2"
    with loaded_with(abouts[file], tmp_path, monkeypatch, file) as segmenter:
        assert segmenter.embed(frozenseg.Vocabulary.parse("wall; lamp")) is not None
        with pytest.raises(MissingFileError, match=f"/{tower}: no such file"):
            segmenter.embed(frozenseg.Vocabulary.parse("sky"))


def test_random_weights_are_said_by_an_exported_file_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    abouts: list[dict[str, object]] = []

    def write_graph(results: object, words: object, path: Path, about: dict, **parts: bool) -> list:
        abouts.append(about)
        path.touch()
        return []

    monkeypatch.setattr(exported_files, "write_graph", write_graph)
    line = ["--format", "torch", "--size", "64x96", "--output", str(tmp_path / "tiny.pt2")]
    line += ["--config-file", "fc_clip_convnext_large", "--vocabulary", "lamp; wall"]
    main([*line, *TINY, "MODEL.ALLOW_RANDOM_WEIGHTS", "True"])
    note = "random weights (clip, decoder): the result means nothing"
    assert note in caplog.text and abouts[0]["note"] == note
    assert loaded_with(abouts[0], tmp_path, monkeypatch).note == note


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["--size", "192"], "HEIGHTxWIDTH"),
        (["--size", "100x256"], "multiples of 32"),
        (["--size", "192x256", "--format", "torch"], "must end in .pt2"),
        (["--size", "192x256", "--format", "torch", "--precision", "int8"], "supports fp32"),
        (
            ["--size", "192x256", "--config-file", "small-fusioner", "--results", "instances"],
            "this model makes semantic",
        ),
    ],
)
def test_what_cannot_be_exported_is_said_before_any_work(
    tmp_path: Path, line: list[str], message: str
) -> None:
    suffix = ".pt2" if "int8" in line else ".onnx"
    with pytest.raises(UserError, match=message):
        main([*line, "--output", str(tmp_path / f"model{suffix}")])
    assert not list(tmp_path.iterdir())


def test_a_model_that_no_onnx_file_holds_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exported_files, "LARGEST_ONNX", 1_000_000)
    with pytest.raises(UserError, match="take --format torch"):
        main(["--size", "64x96", "--output", str(tmp_path / "model.onnx")])
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_traced_program_needs_pytorch_alone(tmp_path: Path) -> None:
    path = tmp_path / "fc_clip.pt2"
    line = ["--format", "torch", "--size", "64x96", "--output", str(path), "--vocabulary", WORDS]
    main([*line, *FC_CLIP_OPTIONS, "MODEL.WEIGHTS", "", "MODEL.ALLOW_RANDOM_WEIGHTS", "True"])
    with open(path, "rb") as file:
        about = {formats.KEY: "", formats.AGREEMENT: ""}
        program = torch.export.load(file, extra_files=about)
    assert not [node for node in program.graph.nodes if "frozenseg" in str(node.target)]
    assert json.loads(about[formats.KEY])["window"] == [64, 96]
    assert len(json.loads(about[formats.AGREEMENT])) == 6
    vectors = dict(np.load(tmp_path / "fc_clip.vectors.npz"))
    del vectors["names"]
    words = {name: torch.from_numpy(values) for name, values in vectors.items()}
    inputs = {"pixels": torch.zeros(1, 3, 64, 96), "size": torch.tensor([64, 96]), **words}
    found = program.module()(**inputs)
    assert found[-1].shape == (64, 96)


@needs_onnx
@pytest.mark.slow
def test_fusioner_is_exported_for_the_classes_that_are_named(tmp_path: Path) -> None:
    path = tmp_path / "fusioner.onnx"
    line = ["--size", "64x96", "--config-file", "small-fusioner", "--vocabulary", WORDS]
    options = ["MODEL.FUSIONER.CLASSES_AT_ONCE", "4"]
    main([*line, "--output", str(path), *options])
    pixels = np.asarray(Image.open(SCENE).convert("RGB").resize((96, 64)))
    ours = frozenseg.load("small-fusioner", device="cpu", options=options)
    with ours, frozenseg.load(path) as other:
        ours.resize = other.resize  # type: ignore[method-assign]
        first, second = ours(pixels, WORDS), other(pixels, WORDS)
        assert (first.semantic == second.semantic).mean() > LIMITS["fp32"].pixels


def test_a_graph_that_differs_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_two(program: object, path: Path, *arguments: object) -> None:
        path.write_text("a graph")
        path.with_suffix(".bin").write_text("its weights")

    unlike = agreement.Agreement("scene 1", True, classes=0.1, masks=0.0, pixels=1.0, empty=0)
    kind = replace(
        formats.FORMATS["torch"],
        write=write_two,
        run=lambda path, outputs: lambda inputs: {},
        beside=(".bin",),
    )
    monkeypatch.setitem(formats.FORMATS, "torch", kind)
    monkeypatch.setattr(write, "traced", lambda *arguments: None)
    monkeypatch.setattr(write, "agreement", lambda *arguments: [unlike])
    with pytest.raises(UserError, match="differs from the model and is not written"):
        main(["--format", "torch", "--size", "64x96", "--output", str(tmp_path / "model.pt2")])
    assert not list(tmp_path.iterdir())


@needs_onnx
@pytest.mark.slow
def test_proposals_of_a_file_are_those_of_the_model(tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    line = ["--size", "192x256", "--results", "--proposals", "--output", str(path)]
    main([*line, "--vocabulary", WORDS])
    names = {f"small{ending}" for ending in (".encoder.onnx", ".points.onnx", ".masks.onnx")}
    assert names <= {file.name for file in tmp_path.iterdir()}
    pixels = np.asarray(Image.open(SCENE).convert("RGB").resize((256, 192)))
    with frozenseg.load("small", device="cpu") as ours, frozenseg.load(path) as other:
        ours.resize = other.resize  # type: ignore[method-assign]
        first, second = ours(pixels, WORDS), other(pixels, WORDS)
        other.pipeline.proposals = None
        without = other(pixels, WORDS)
    assert (first.panoptic.ids == second.panoptic.ids).mean() > LIMITS["fp32"].pixels
    assert (first.semantic == second.semantic).mean() > LIMITS["fp32"].pixels
    assert not np.array_equal(second.semantic, without.semantic)


@needs_onnx
@pytest.mark.slow
def test_openvinos_own_files_are_two(tmp_path: Path) -> None:
    if find_spec("openvino") is None:
        pytest.skip('needs the extra "openvino": pip install "frozenseg[openvino]"')
    path = tmp_path / "small.xml"
    main(["--format", "openvino", "--size", "64x96", "--output", str(path), "--vocabulary", WORDS])
    found = {file.name for file in tmp_path.iterdir()}
    assert found == {"small.xml", "small.bin", "small.vectors.npz", "small.text.onnx"}
    pixels = np.asarray(Image.open(SCENE).convert("RGB").resize((96, 64)))
    options = {"TEST.USE_SAM_MASKS": False}
    with frozenseg.load("small", device="cpu", options=options) as ours:
        with frozenseg.load(path) as other:
            assert isinstance(other.model, OnnxModel)
            assert len(other.model.session.about["agreement"]) == 6
            ours.resize = other.resize  # type: ignore[method-assign]
            first, second = ours(pixels, WORDS), other(pixels, "circle; red star")
            assert second.panoptic.ids.shape == (64, 96)
            second = other(pixels, WORDS)
    assert (first.semantic == second.semantic).mean() > LIMITS["fp32"].pixels
