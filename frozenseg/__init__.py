"""Open-vocabulary segmentation: an image and a list of names in, masks for them out.

In three lines:

    import frozenseg
    segmenter = frozenseg.load("small")
    result = segmenter("street.jpg", vocabulary=["car, truck", "road", "sky"])
    result.draw().save("street.png")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from frozenseg.build.models import build_model as build_model
    from frozenseg.build.prediction import load as load
    from frozenseg.config import load_config as load_config
    from frozenseg.errors import UserError as UserError
    from frozenseg.predictor import Predictor as Predictor
    from frozenseg.predictor import SegmentationResult as SegmentationResult
    from frozenseg.runtime.allocator import configure_allocator as configure_allocator
    from frozenseg.text.vocabulary import Vocabulary as Vocabulary

# Name -> module. Loaded at first use: `import frozenseg` stays instant, without torch.
_PUBLIC = {
    "load": "frozenseg.build.prediction",
    "Predictor": "frozenseg.predictor",
    "SegmentationResult": "frozenseg.predictor",
    "Vocabulary": "frozenseg.text.vocabulary",
    "UserError": "frozenseg.errors",
    "load_config": "frozenseg.config",
    "build_model": "frozenseg.build.models",
    "configure_allocator": "frozenseg.runtime.allocator",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'frozenseg' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__
