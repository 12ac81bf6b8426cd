"""Train or evaluate our model with detectron2's DefaultTrainer, data loaders and evaluators."""

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
    epilog = "This needs detectron2; if it is missing, the command says how to install it."
    arguments = argument_parser(
        "frozenseg detectron2_train_net", __doc__ or "", epilog
    ).parse_intermixed_args(argv)
    request = Request.of(arguments)
    read_config(request)  # errors are reported before any process starts

    from detectron2.engine import launch  # installed: `read_config` has imported the adapter

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
    """Return detectron2's configuration with our keys, overridden by the YAML file and options."""
    from frozenseg.adapters.detectron2 import frozenseg_config

    cfg = frozenseg_config()
    if request.config is not None:
        cfg.merge_from_file(request.config)
    cfg.merge_from_list(request.options)
    if cfg.SOLVER.AMP.ENABLED and not cfg.MODEL.DEVICE.startswith("cuda"):
        # detectron2's AMP needs CUDA; our own trainer uses float32 on other devices, too.
        cfg.SOLVER.AMP.ENABLED = False
    # Our expected results begin with a data set. Keep only those in detectron2's own form, [task,
    # metric, value, tolerance], which `verify_results` checks.
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
    """Do the entire work of one process."""
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
    if comm.is_main_process():  # detectron2's own config.yaml can only be read by detectron2
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
