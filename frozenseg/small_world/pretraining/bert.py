"""Train a small BERT (arXiv 1810.04805) on sentences only, to predict masked words.

Legend: B sentences, L tokens.
"""

import string
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from frozenseg.errors import import_extra
from frozenseg.files import atomic_path
from frozenseg.small_world import sentences
from frozenseg.small_world.pretraining.loop import Batch

LENGTH = 32  # tokens in training; longer sentences are cut
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PAD, MASK = SPECIAL.index("[PAD]"), SPECIAL.index("[MASK]")
SIZES = {
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "max_position_embeddings": 128,
}
MASKED = 0.15  # of the tokens; 80 % of them show the mask, 10 % a random word, 10 % themselves


def make_tokenizer(folder: Path) -> Any:
    """Write a vocabulary as vocab.txt into the folder and return BERT's tokenizer for it.

    Its words are those of the sentences; other words are spelled out.
    """
    signs = [*string.ascii_lowercase, *string.digits]
    marks = list(string.punctuation)
    rest = [word for word in sentences.words() if word not in {*signs, *marks}]
    path = folder / "vocab.txt"
    with atomic_path(path) as temporary:
        lines = [*SPECIAL, *marks, *signs, *(f"##{sign}" for sign in signs), *rest]
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return transformers().BertTokenizer(str(path))


class WordGuesser(nn.Module):
    """A BERT with a head that predicts the word at each position."""

    def __init__(self, words: int) -> None:
        """words: the number of words in the vocabulary."""
        super().__init__()
        package = transformers()
        # All random choices come from the generator of a step, so there is no dropout.
        without = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        config = package.BertConfig(vocab_size=words, **SIZES, **without)
        self.bert = package.BertModel(config, add_pooling_layer=False)
        dim = config.hidden_size
        self.head = nn.Sequential(
            nn.Linear(dim, dim), nn.GELU(), nn.LayerNorm(dim), nn.Linear(dim, words)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Map token ids (B, L) to logits (B, L, words)."""
        found = self.bert(input_ids=tokens, attention_mask=(tokens != PAD).long())
        return self.head(found.last_hidden_state)


def transformers() -> Any:
    """Return the optional package; raises `UserError` if it is missing."""
    return import_extra("transformers", "fusioner", "a small BERT")


class Sentences(Dataset[tuple[Tensor, ...]]):
    """Token ids (L,) of sentences; sentence i depends only on the seed and i."""

    def __init__(self, *, tokenizer: Any, seed: int) -> None:
        self.tokenizer, self.seed = tokenizer, seed

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        text = sentences.sentence(np.random.default_rng([self.seed, index]))
        return (token_ids(self.tokenizer, [text])[0],)


def token_ids(tokenizer: Any, texts: list[str]) -> Tensor:
    """Return token ids (B, L), truncated and padded to `LENGTH`."""
    found = tokenizer(
        texts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"
    )
    return found["input_ids"]


class BertTask:
    """Training on masked words, for `frozenseg.small_world.pretraining.loop`."""

    def __init__(
        self, *, model: WordGuesser, tokenizer: Any, seed: int, test_sentences: int
    ) -> None:
        """tokenizer: from `make_tokenizer`."""
        self.model, self.tokenizer = model, tokenizer
        self.seed, self.test_sentences = seed, test_sentences

    def samples(self) -> Dataset[tuple[Tensor, ...]]:
        """Return the dataset of sentences."""
        return Sentences(tokenizer=self.tokenizer, seed=self.seed)

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the cross entropy of the masked words."""
        (tokens,) = batch
        shown, asked = masked(tokens, len(self.tokenizer), generator)
        loss = F.cross_entropy(self.model(shown)[asked].float(), tokens[asked])
        return {"total_loss": loss}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Return how many masked words of new sentences are predicted correctly, in per cent."""
        # No sample has three numbers. Zeros at the end would not count.
        chance = np.random.default_rng([self.seed, 1, 1])
        texts = [sentences.sentence(chance) for _ in range(self.test_sentences)]
        device = next(self.model.parameters()).device
        tokens = token_ids(self.tokenizer, texts).to(device)
        generator = torch.Generator(device).manual_seed(self.seed)
        shown, asked = masked(tokens, len(self.tokenizer), generator)
        right = torch.cat(
            [
                (self.model(part).argmax(-1) == truth)[where]
                for part, truth, where in zip(
                    shown.split(64), tokens.split(64), asked.split(64), strict=True
                )
            ]
        )
        return {"masked_words": 100 * float(right.float().mean())}

    def weights(self) -> dict[str, Tensor]:
        """Return the weights of the entire model; `write_encoder` writes only the encoder."""
        return self.model.state_dict()

    def write_encoder(self, folder: Path) -> None:
        """Write BERT without its head, in the format of the Hugging Face hub."""
        self.model.bert.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def masked(tokens: Tensor, words: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mask some of the tokens (B, L); at least one of every sentence, and no special one.

    words: the number of words in the vocabulary. Returns the tokens that are shown (B, L), and
    where to predict the original ones (B, L) bool.
    """
    special = tokens < len(SPECIAL)
    roll = torch.rand(tokens.shape, generator=generator, device=tokens.device)
    roll = roll.masked_fill(special, 1.0)
    asked = (roll < MASKED) | (roll == roll.amin(1, keepdim=True))
    asked &= ~special
    how = torch.rand(tokens.shape, generator=generator, device=tokens.device)
    others = torch.randint(
        len(SPECIAL), words, tokens.shape, generator=generator, device=tokens.device
    )
    shown = torch.where(asked & (how < 0.8), torch.full_like(tokens, MASK), tokens)
    return torch.where(asked & (how >= 0.9), others, shown), asked
