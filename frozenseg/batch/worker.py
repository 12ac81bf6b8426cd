"""The worker that makes the shards of a batch run; all engines use the same class."""

import gc
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from frozenseg.batch.items import Item, check_source, source_of
from frozenseg.batch.manifest import Manifest
from frozenseg.batch.rows import ABOUT, Row, as_text, error_row, read_about, row_of, write_shard
from frozenseg.build.output_folder import differing
from frozenseg.build.prediction_settings import (
    PROPOSAL_WEIGHTS,
    WEIGHTS,
    load_with_settings,
    settings_of,
)
from frozenseg.build.run_folder import model_config
from frozenseg.data.coco_records import categories_of
from frozenseg.errors import UserError
from frozenseg.extensions import import_extensions, imported_extensions
from frozenseg.files import json_text, read_json, write_json
from frozenseg.results.result import SegmentationResult, Task
from frozenseg.runtime.background import map_ahead
from frozenseg.text.vocabulary import Vocabulary

FORMAT = 1
DIGITS = 16  # number of hexadecimal digits of a digest in a row
Seen = Callable[[str | None], None]
"""Called for each image, with the reason why it failed, or None."""


@dataclass(frozen=True)
class Plan:
    """The settings that every process of a run needs; it can be pickled.

    folder: the output folder.
    model, weights, options: see `frozenseg.load`.
    threshold: the lowest score of the segments to keep.
    task: whether the segments are panoptic segments or instances.
    extensions: modules to import first.
    """

    folder: Path
    model: str
    vocabulary: Vocabulary
    weights: str | None = None
    options: tuple[str, ...] = ()
    threshold: float = 0.0
    task: Task = "panoptic"
    extensions: tuple[str, ...] = field(default_factory=imported_extensions)


class Worker:
    """A model in a process, which makes one shard after another."""

    def __init__(self, plan: Plan, device: str | None = None) -> None:
        """Load the model; raise `UserError` if the folder holds results of other settings.

        device: the device of the model; None: that of the configuration.
        """
        import_extensions(plan.extensions)
        options = list(plan.options) + ([] if device is None else ["MODEL.DEVICE", device])
        self.plan, self.manifest = plan, Manifest(plan.folder)
        self.predictor, settings = load_with_settings(
            plan.model, weights=plan.weights, options=options
        )
        self.predictor.embed(plan.vocabulary)  # ends the run here if a name cannot be encoded
        self.digests = _settle(plan, settings, self.predictor.note)
        self._only_the_task()
        # Rows are so many objects that the garbage collector would search all other objects again
        # and again, which took longer than making the rows of a tiny model. The objects that exist
        # now stay for the entire run, so the collector may ignore them.
        gc.collect()
        gc.freeze()

    def _only_the_task(self) -> None:
        """Switch off the results that the rows do not hold; semantic results take the longest."""
        pipeline, task = self.predictor.pipeline, self.plan.task
        made = pipeline.post_processor
        if task == "instances" and not made.instances:
            raise UserError("--task instances: this model gives no instances; use --task panoptic")
        if task == "instances" or made.panoptic:
            instances = task == "instances"
            pipeline.post_processor = replace(
                made, panoptic=not instances, semantic=False, instances=instances
            )

    def make(self, number: int, seen: Seen = lambda error: None) -> None:
        """Make a shard. Images are decoded, and masks are encoded, while the model works.

        number: the number of the shard. seen: called for each image.
        """
        rows = []
        # The results of a batch arrive all at once; up to `depth` of them are queued, so that the
        # model can start with the next batch.
        for row in map_ahead(
            self._row,
            self._results(number),
            workers=self.predictor.readers,
            depth=self.predictor.batch_size,
        ):
            rows.append(row)
            seen(row["error"])
        write_shard(self.plan.folder, number, rows, self.digests)

    def _results(self, number: int) -> Iterator[tuple[int, Item, SegmentationResult | UserError]]:
        """Yield the id, the image and the result for each image of a shard.

        Raises `SourceLost` if the source of the images can no longer be reached.
        """
        items = self.manifest.items(number)
        results = self.predictor.stream(
            map(source_of, items), self.plan.vocabulary, threshold=self.plan.threshold
        )
        first = number * self.manifest.shard_rows
        for place, (item, found) in enumerate(zip(items, results, strict=True), first):
            if isinstance(found, UserError):
                check_source(item, found)
            yield place, item, found

    def _row(self, entry: tuple[int, Item, SegmentationResult | UserError]) -> Row:
        number, item, found = entry
        if isinstance(found, UserError):
            return error_row(number, item, str(found))
        return row_of(number, item, found, self.plan.task)


def check_about(plan: Plan) -> None:
    """Raise `UserError` if the folder holds results of another vocabulary or of other settings.

    Whether the weights differ is only known once the model is loaded (`Worker`).
    """
    if (plan.folder / ABOUT).exists():
        before = read_about(plan.folder)
        settings = settings_of(model_config(plan.model, weights=plan.weights, options=plan.options))
        loaded = (WEIGHTS, PROPOSAL_WEIGHTS)
        settings |= {key: value for key, value in before["settings"].items() if key in loaded}
        _refuse_others(plan.folder, before, {**before, **_of_plan(plan, settings)})


def _of_plan(plan: Plan, settings: dict[str, Any]) -> dict[str, Any]:
    words = plan.vocabulary
    return {
        "categories": categories_of(words.names, words.is_thing),
        "settings": {**settings, "threshold": plan.threshold},
        "task": plan.task,
    }


def _settle(plan: Plan, settings: dict[str, Any], note: str | None) -> dict[str, str]:
    """Write how the rows are made beside them, or check it if it exists; return its digests.

    Every process does so, because only these processes have the model.
    """
    path = plan.folder / ABOUT
    about = {"format": FORMAT, "note": note, "model": settings["weights"]}
    now = json.loads(json_text({**about, **_of_plan(plan, settings)}))
    if not path.exists():
        write_json(path, now, indent=1)
    _refuse_others(plan.folder, read_json(path), now)
    parts = {"vocabulary": now["categories"], "settings": [now["settings"], now["task"]]}
    return {
        "model_digest": str(now["model"])[:DIGITS],
        **{
            f"{name}_digest": hashlib.sha256(as_text(part).encode()).hexdigest()[:DIGITS]
            for name, part in parts.items()
        },
    }


def _refuse_others(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    if differences := list(_differences(before, now)):
        raise UserError(
            f"{folder}: holds results that were made differently ({'; '.join(differences)}); "
            "give another --output"
        )


def _differences(before: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    for name, old, new in differing(before, now):
        if name == "categories":
            yield "another vocabulary"
        elif name == "settings":
            yield from (f"{key} {one}, now {other}" for key, one, other in differing(old, new))
        else:
            yield f"{name} {old}, now {new}"
