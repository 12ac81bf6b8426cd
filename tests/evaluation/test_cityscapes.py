import importlib.util

import numpy as np
import pytest
from PIL import Image

from frozenseg.errors import UserError
from frozenseg.evaluation.cityscapes import CityscapesAP

INSTALLED = importlib.util.find_spec("cityscapesscripts") is not None


@pytest.mark.skipif(INSTALLED, reason="cityscapesScripts is installed")
def test_missing_extra_names_the_install_line():
    with pytest.raises(UserError, match=r"pip install 'frozenseg\[cityscapes\]'"):
        CityscapesAP(ground_truth={})


@pytest.mark.skipif(not INSTALLED, reason="needs cityscapesScripts")
def test_one_of_two_cars_is_half(tmp_path):
    ids = np.full((64, 128), 7, dtype=np.uint16)  # road
    ids[10:30, 10:40] = 26000
    ids[40:60, 50:90] = 26001
    path = tmp_path / "ulm_000000_000019_gtFine_instanceIds.png"
    Image.fromarray(ids).save(path)
    metric = CityscapesAP(ground_truth={"ulm": path})
    metric.update("ulm", (ids == 26000)[None], None, [0.9], [26])
    scores = metric.compute()
    assert scores["AP"] == scores["AP50"] == pytest.approx(0.5, abs=0.01)
    assert scores["per_class"]["26"] == scores["AP"]
    assert np.isnan(scores["per_class"]["28"])  # no bus
