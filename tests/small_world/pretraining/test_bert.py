"""Masked words, and the tokenizer of the sentences."""

from pathlib import Path

import numpy as np
import pytest
import torch

from frozenseg.errors import UserError
from frozenseg.small_world import sentences
from frozenseg.small_world.pretraining import bert


def test_what_is_masked() -> None:
    tokens = torch.randint(len(bert.SPECIAL), 90, (400, 12))
    tokens[:, 0], tokens[:, 8], tokens[:, 9:] = 2, 3, bert.PAD
    shown, asked = bert.masked(tokens, 90, torch.Generator().manual_seed(0))
    special = tokens < len(bert.SPECIAL)
    assert not asked[special].any() and asked.any(1).all()
    assert torch.equal(shown[~asked], tokens[~asked])
    share = asked.sum() / (~special).sum()
    assert 0.15 < share < 0.28  # a sentence of seven words always has one
    hidden = shown[asked] == bert.MASK
    assert 0.74 < hidden.float().mean() < 0.86
    kept = (shown == tokens)[asked].float().mean()
    assert 0.05 < kept < 0.16
    again = bert.masked(tokens, 90, torch.Generator().manual_seed(0))
    assert torch.equal(again[0], shown)


def test_bert_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(UserError, match=r"needs transformers: pip install .frozenseg\[fusioner\]"):
        bert.transformers()


def test_the_tokenizer_knows_the_words_of_sentences_and_spells_others(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    tokenizer = bert.make_tokenizer(tmp_path)
    generator = np.random.default_rng(2)
    texts = [sentences.sentence(generator) for _ in range(100)]
    pieces = [piece for text in texts for piece in tokenizer.tokenize(text)]
    assert "[UNK]" not in pieces and not any(piece.startswith("##") for piece in pieces)
    assert tokenizer.tokenize("Wolf!") == ["w", "##o", "##l", "##f", "!"]
    ids = bert.token_ids(tokenizer, ["a star.", "grass"])
    assert ids.shape == (2, bert.LENGTH) and (ids[1, 3:] == bert.PAD).all()
