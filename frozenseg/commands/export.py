"""Export a model as a graph that runs without this package, and check it against the model."""

import argparse
import re

from frozenseg.commands.output_argument import output_file
from frozenseg.errors import UserError
from frozenseg.files import user_path
from frozenseg.text.vocabulary import Vocabulary

FORMATS = ("onnx", "openvino", "torch", "aoti")


def main(argv: list[str]) -> None:
    """Export the model, and print how well each file agrees with it."""
    arguments = _parser().parse_intermixed_args(argv)
    vocabulary = _vocabulary(arguments)
    # Imported only now, because importing torch takes seconds.
    from frozenseg.build.exported import Order, export_model
    from frozenseg.build.run_folder import model_config
    from frozenseg.export.formats import FORMATS as KINDS

    kind = KINDS[arguments.format]
    output = arguments.output or output_file(f"model{kind.suffix}")
    if output.suffix != kind.suffix:
        raise UserError(
            f"{output}: a file of --format {arguments.format} must end in {kind.suffix}"
        )
    if arguments.precision not in kind.precisions:
        raise UserError(
            f"--precision {arguments.precision}: --format {arguments.format} supports "
            f"{', '.join(kind.precisions)}"
        )
    cfg = model_config(
        arguments.config_file,
        weights=arguments.weights,
        options=arguments.options,
        device="cpu",
    )
    order = Order(
        output=output,
        format=arguments.format,
        precision=arguments.precision,
        windows=arguments.size,
        wanted=arguments.results,
        vocabulary=vocabulary,
        proposals=arguments.proposals,
    )
    for path, found in export_model(cfg, order).items():
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, agrees with the model:")
        for case in found:
            print(f"  {case}")


def _vocabulary(arguments: argparse.Namespace) -> Vocabulary:
    if arguments.vocabulary_file is not None:
        if arguments.vocabulary is not None:
            raise UserError("name the classes by --vocabulary or --vocabulary-file, not by both")
        return Vocabulary.parse(Vocabulary.from_file(arguments.vocabulary_file), arguments.things)
    if arguments.vocabulary is not None:
        return Vocabulary.parse(arguments.vocabulary, arguments.things)
    return Vocabulary.packaged("small_world")


def _sizes(text: str) -> list[tuple[int, int]]:
    sizes = []
    for part in text.split(","):
        found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", part.strip())
        if found is None:
            raise UserError(f"--size {part}: expected HEIGHTxWIDTH in pixels, e.g. 640x640")
        sizes.append((int(found[1]), int(found[2])))
    return sizes


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="frozenseg export", description=__doc__)
    add = parser.add_argument
    add("--output", type=output_file, help="file to write (default: model.onnx, .xml or .pt2)")
    add("--format", choices=FORMATS, default="onnx", help="format of the file (default: onnx)")
    add(
        "--size",
        type=_sizes,
        required=True,
        metavar="HxW[,HxW...]",
        help="input sizes of the graph (windows) in pixels, one file for each; smaller images are "
        "placed in the top left corner of the window",
    )
    add(
        "--precision",
        choices=("fp32", "fp16", "int8"),
        default="fp32",
        help="precision of the weights (default: fp32)",
    )
    add(
        "--results",
        nargs="*",
        choices=("panoptic", "semantic", "instances"),
        help="results that the graph computes besides the class and mask logits (default: panoptic "
        "and semantic, if the configuration produces them)",
    )
    add(
        "--proposals",
        action="store_true",
        help="write SAM's encoder and decoder beside the model, so that SAM's proposals can be "
        "added to the model's masks (TEST.USE_SAM_MASKS)",
    )
    words = 'classes whose text vectors are written beside the model: "car, truck; road"'
    add("--vocabulary", help=f"{words} (default: the names of the small world)")
    add("--vocabulary-file", type=user_path, help="a file of classes, as for `frozenseg demo`")
    add("--things", help="the classes that are countable things, in the same form")
    add(
        "--config-file",
        default="small",
        help="the model: a name, a YAML file, or the folder of a run (default: %(default)s)",
    )
    add("--weights", help="a checkpoint to use instead of the model's own")
    add(
        "options",
        nargs="*",
        metavar="KEY VALUE",
        help="settings that override those of the YAML file",
    )
    return parser
