"""Open-vocabulary segmentation: an image and a list of names in, masks for them out.

In three lines:

    import frozenseg
    segmenter = frozenseg.load("small")
    result = segmenter("street.jpg", vocabulary=["car, truck", "road", "sky"])
    result.draw().save("street.png")

These are the public names. Their arguments and return values stay compatible unless a release
announces otherwise; everything else may change from one release to the next.

    load                 load a model, ready to segment
    from_pretrained      the same from the Hugging Face hub, or from a folder of save_pretrained
    Predictor            what `load` returns: call it with an image and a vocabulary
    SegmentationResult   what a call returns: masks, names, a drawing, exports for other tools
    Vocabulary           class names with synonyms, and which classes are things
    load_config          read a configuration from a YAML file and options
    train                train the model of a configuration
    evaluate             score a model on data sets
    Client               the same calls, answered by a service (`frozenseg serve`)
    UserError            an error in the user's input, explained in one line
    configure_allocator  settings of the memory allocator, for your own scripts
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from frozenseg.build.evaluation import evaluate as evaluate
    from frozenseg.build.hub import from_pretrained as from_pretrained
    from frozenseg.build.prediction import load as load
    from frozenseg.build.training import train as train
    from frozenseg.config import load_config as load_config
    from frozenseg.errors import UserError as UserError
    from frozenseg.predictor import Predictor as Predictor
    from frozenseg.results.result import SegmentationResult as SegmentationResult
    from frozenseg.runtime.allocator import configure_allocator as configure_allocator
    from frozenseg.serve.client import Client as Client
    from frozenseg.text.vocabulary import Vocabulary as Vocabulary

# Name -> module. A module is imported at first use, so that `import frozenseg` is instant and does
# not import torch.
_PUBLIC = {
    "load": "frozenseg.build.prediction",
    "from_pretrained": "frozenseg.build.hub",
    "Predictor": "frozenseg.predictor",
    "SegmentationResult": "frozenseg.results.result",
    "Vocabulary": "frozenseg.text.vocabulary",
    "Client": "frozenseg.serve.client",
    "UserError": "frozenseg.errors",
    "load_config": "frozenseg.config",
    "train": "frozenseg.build.training",
    "evaluate": "frozenseg.build.evaluation",
    "configure_allocator": "frozenseg.runtime.allocator",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'frozenseg' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__
