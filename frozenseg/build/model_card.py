"""The card of a shared model: the metadata for the Hugging Face hub, and a text for its readers."""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

import frozenseg
from frozenseg.data.benchmarks.own_yaml import is_yaml
from frozenseg.errors import UserError
from frozenseg.evaluation.results_file import StoredEvaluation, read_results

logger = logging.getLogger(__name__)

METADATA = {
    "library_name": "frozenseg",
    "pipeline_tag": "image-segmentation",
    "tags": ["open-vocabulary", "panoptic-segmentation", "zero-shot"],
}
METRICS = ("PQ", "mIoU", "AP")  # last words of the names of the metrics that the card lists

CARD = """# {architecture}

Open-vocabulary segmentation: an image and a list of names go in, masks for them come out.

```python
import frozenseg

segmenter = frozenseg.from_pretrained("OWNER/NAME")
result = segmenter("street.jpg", vocabulary=["car, truck", "road", "sky"])
```

- Frozen encoders: {encoders}. Their weights are in `model.safetensors` with the trained ones.
- Trained on the classes: {seen}.
- Licence: {licence}.
- Made with frozenseg {version}. The files are text and tensors; loading executes nothing of them.
{scores}"""


def model_card(
    *,
    architecture: str,
    encoders: Mapping[str, str],
    seen: Sequence[str],
    scores: Sequence[EvalResult],
    fields: Mapping[str, Any],
) -> ModelCard:
    """Build the card of a model.

    architecture: the value of MODEL.META_ARCHITECTURE.
    encoders: the names of the frozen encoders, by part.
    seen: the classes of the training.
    scores: from `read_scores`.
    fields: fields of `huggingface_hub.ModelCardData`, e.g. license; they override `METADATA`.
    """
    known = {"model_name": architecture, "eval_results": list(scores)} if scores else {}
    data = ModelCardData(**{**METADATA, **known, **fields})
    rows = [
        f"| {score.dataset_name} | {score.metric_type} | {score.metric_value} |" for score in scores
    ]
    head = ["", "## Scores", "", "| data set | metric | % |", "| --- | --- | --- |"]
    text = CARD.format(
        architecture=architecture,
        encoders=", ".join(f"{name} ({part})" for part, name in encoders.items()),
        seen=", ".join(seen),
        version=frozenseg.__version__,
        licence=fields.get("license") or "not stated",
        scores="\n".join([*head, *rows, ""]) if rows else "",
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")


def read_scores(path: Path) -> list[EvalResult]:
    """Read the main scores, in per cent, from a run's results.json; return [] if it is absent.

    The names of the data sets are given without paths of this machine. A file that is not a run's
    results yields no scores, and a warning is logged.
    """
    found: Mapping[str, StoredEvaluation] = {}
    if path.is_file():
        try:
            found = read_results(path)
        except UserError as error:
            logger.warning("%s; the model card has no scores", error)
    return [
        EvalResult(
            task_type="image-segmentation",
            dataset_type=_public_name(name),
            dataset_name=_public_name(name),
            metric_type=metric,
            metric_value=round(score, 2),
        )
        for name, entry in found.items()
        for metric, score in entry.summary.items()
        if metric.rpartition(" ")[2] in METRICS and math.isfinite(score)
    ]


def _public_name(data_set: str) -> str:
    """Return the name of a data set without its files or the folder of its YAML file."""
    return Path(data_set).name if is_yaml(data_set) else data_set.partition(":")[0]
