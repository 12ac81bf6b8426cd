"""Text vectors of classes with several names."""

import torch
from torch.nn.functional import normalize

from frozenseg.structures import TextEmbeddings
from frozenseg.text.vocabulary import Vocabulary


def test_selected_classes_keep_their_names_in_the_order_asked_for() -> None:
    weight = normalize(torch.randn(5, 8), dim=-1)
    text = TextEmbeddings(weight, torch.tensor([0, 0, 1, 2, 2]), torch.tensor([True, False, True]))
    part = text.select([2, 1])
    assert torch.equal(part.weight, weight[[3, 4, 2]])
    assert part.class_index.tolist() == [0, 0, 1] and part.seen.tolist() == [True, False]
    expected = torch.stack([normalize(weight[3] + weight[4], dim=0), weight[2]])
    torch.testing.assert_close(part.class_vectors(), expected)
    torch.testing.assert_close(text.class_vectors()[[2, 1]], expected)
    words = Vocabulary((("cat",), ("dog", "hound"), ("sky",)), (True, True, False))
    assert words.select([2, 1]) == Vocabulary((("sky",), ("dog", "hound")), (False, True))
