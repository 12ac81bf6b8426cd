"""The settings of all sections: the device, the sizes of the models, and the folders."""

from dataclasses import dataclass
from pathlib import Path

import torch
from fvcore.common.config import CfgNode

from frozenseg.config import load_config
from frozenseg.devtools.speed.setting import Setting
from frozenseg.devtools.tiny import TINY

PRECISIONS = ("fp16", "bf16")  # for measurements of speed


@dataclass(frozen=True)
class Trial:
    """One run of `frozenseg measure_gpu`.

    device: the device that is measured.
    tiny: whether tiny models replace the published one, to try the program.
    folder: folder of the report and the profiles.
    scratch: a temporary folder that is removed at the end.
    reference: the folder of reference vectors, if there is one.
    config_file: the model whose speed is measured; None: the published ConvNeXt-L model.
    """

    device: torch.device
    tiny: bool
    folder: Path
    scratch: Path
    reference: Path | None = None
    config_file: str | None = None

    @property
    def repeats(self) -> int:
        """Number of repetitions over which medians are taken."""
        return 2 if self.tiny else 10

    def setting(self, *, training: bool = False) -> Setting:
        """Return the image and the words: 800 x 1199 for prediction, 1024 x 1024 for training."""
        if training:
            size = (64, 64) if self.tiny else (1024, 1024)
        else:
            size = (64, 96) if self.tiny else (800, 1199)
        return Setting(size, 150, 403)

    def config(self, *options: str) -> CfgNode:
        """Return the configuration of the measured model, with random weights.

        The network sees the image at its original size.
        """
        height, width = self.setting().size
        return load_config(
            self.config_file,
            [
                *(TINY if self.tiny else []),
                *("SEED", "0", "MODEL.DEVICE", str(self.device)),
                *("MODEL.ALLOW_RANDOM_WEIGHTS", "True"),
                *("INPUT.MIN_SIZE_TEST", str(height), "INPUT.MAX_SIZE_TEST", str(width)),
                *options,
            ],
        )
