"""Train or evaluate under detectron2: its DefaultTrainer, loaders and evaluators, our model."""

import logging
from pathlib import Path
from typing import Any

from frozenseg.build.run_folder import evaluation_weights
from frozenseg.build.setting import data_sets, require_weights
from frozenseg.commands.train_net import Request, argument_parser
from frozenseg.files import atomic_path, write_json

logger = logging.getLogger(__name__)


def main(argv: list[str]) -> int | None:
    """Check the configuration and start detectron2's launcher."""
    epilog = "detectron2 is needed; without it, the command says how to get it."
    arguments = argument_parser(
        "frozenseg detectron2_train_net", __doc__ or "", epilog
    ).parse_intermixed_args(argv)
    request = Request.of(arguments)
    read_config(request)  # errors are known before any process starts

    from detectron2.engine import launch  # it is there: the adapter has been imported

    launch(
        work,
        arguments.num_gpus,
        num_machines=arguments.num_machines,
        machine_rank=arguments.machine_rank,
        dist_url=arguments.dist_url,
        args=(request,),
    )
    return None


def read_config(request: Request) -> Any:
    """detectron2's configuration with our keys, the YAML file and the options over it."""
    from frozenseg.adapters.detectron2 import frozenseg_config

    cfg = frozenseg_config()
    if request.config is not None:
        cfg.merge_from_file(request.config)
    cfg.merge_from_list(request.options)
    if cfg.SOLVER.AMP.ENABLED and not cfg.MODEL.DEVICE.startswith("cuda"):
        cfg.SOLVER.AMP.ENABLED = False  # detectron2's needs CUDA; ours trains in float32 as well
    # Ours name a data set; those of detectron2, [task, metric, value, tolerance], are checked.
    tasks = ("panoptic_seg", "sem_seg", "segm", "bbox")
    expected = cfg.TEST.EXPECTED_RESULTS
    cfg.TEST.EXPECTED_RESULTS = [row for row in expected if row[0] in tasks]
    if request.eval_only:
        cfg.MODEL.WEIGHTS = evaluation_weights(
            cfg.MODEL.WEIGHTS,
            config=request.config,
            options=request.options,
            output=cfg.OUTPUT_DIR,
        )
        require_weights(cfg)
    if request.eval_only or cfg.DATASETS.TEST:
        data_sets(cfg, "TEST")
    cfg.freeze()
    return cfg


def work(request: Request) -> None:
    """Do the whole job of one process."""
    from types import SimpleNamespace

    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.engine import default_setup
    from detectron2.evaluation import verify_results
    from detectron2.utils import comm

    from frozenseg.adapters.detectron2 import Trainer
    from frozenseg.config import select_config

    cfg = read_config(request)
    default_setup(cfg, SimpleNamespace(eval_only=request.eval_only))
    output = Path(cfg.OUTPUT_DIR)
    if comm.is_main_process():  # detectron2 writes its own config.yaml, which only it can read
        with atomic_path(output / "frozenseg.yaml") as temporary:
            temporary.write_text(select_config(cfg).dump(), encoding="utf-8")
    if request.eval_only:
        model = Trainer.build_model(cfg)
        if request.resume:
            DetectionCheckpointer(model, save_dir=cfg.OUTPUT_DIR).resume_or_load("", resume=True)
        results = Trainer.test(cfg, model)
    else:
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=request.resume)
        trainer.train()
        results = getattr(trainer, "_last_eval_results", {})
    if comm.is_main_process() and results:
        write_json(output / "results.json", results, indent=1)
        logger.info("written to %s", output / "results.json")
        verify_results(cfg, results)
