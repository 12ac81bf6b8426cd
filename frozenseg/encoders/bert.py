"""A frozen BERT as text encoder, trained only on text (Fusioner, arXiv 2210.15138, Table 1)."""

import hashlib
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from frozenseg.encoders.frozen import Frozen, add_tensors
from frozenseg.errors import TextTooLong, UserError


class BertText(Frozen):
    """Encodes a text as the mean of BERT's last hidden states over its tokens.

    The paper does not say how it combines the hidden states; taking the mean is our choice.
    """

    def __init__(self, *, model: Any, tokenizer: Any) -> None:
        """model, tokenizer: see `load_bert`; untyped, since transformers is an optional package."""
        super().__init__()
        self.model = self.freeze(model)
        self.tokenizer = tokenizer

    @property
    def embed_dim(self) -> int:
        """D, the length of a vector: 768 for BERT-B and 1024 for BERT-L."""
        return self.model.config.hidden_size

    @torch.no_grad()
    def encode_text(self, texts: list[str], batch_size: int = 128) -> Tensor:
        """Return vectors (N, D), not normalised, in the order of `texts`.

        Raises `TextTooLong` for a text with more tokens than BERT has positions.
        """
        limit = self.model.config.max_position_embeddings
        for index, tokens in enumerate(self.tokenizer(texts)["input_ids"]):
            if len(tokens) > limit:
                raise TextTooLong(texts[index], index, len(tokens), limit)
        vectors = []
        for start in range(0, len(texts), batch_size):
            batch = self.tokenizer(
                texts[start : start + batch_size],
                padding=True,
                return_tensors="pt",
            ).to(self.model.device)
            hidden = self.model(**batch).last_hidden_state  # (n, tokens, D)
            used = batch["attention_mask"][..., None].to(hidden.dtype)
            vectors.append((hidden * used).sum(1) / used.sum(1))
        return torch.cat(vectors).float()

    def text_fingerprint(self) -> str:
        """Return a digest of everything that the vectors depend on: configuration, vocabulary and
        weights."""
        digest = hashlib.sha256(self.model.config.to_json_string().encode())
        digest.update(repr(sorted(self.tokenizer.get_vocab().items())).encode())
        add_tensors(digest, self.model.state_dict())
        return digest.hexdigest()


def load_bert(folder: str) -> BertText:
    """Load BERT from a folder in the format of the Hugging Face hub: config.json, vocab.txt and
    model.safetensors.

    Nothing is downloaded. Raises `UserError` if the package transformers is missing, or if the
    folder contains no readable BERT.
    """
    try:
        transformers = import_module("transformers")
    except ImportError:
        raise UserError(
            f"{folder}: BERT needs transformers; pip install 'frozenseg[fusioner]'"
        ) from None
    path = Path(folder)
    if not folder or not (path / "config.json").is_file():
        raise UserError(
            f"{folder!r}: no folder with BERT's config.json; fetch one "
            "with `hf download google-bert/bert-base-uncased --local-dir DIR`, and give DIR"
        )
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            path, local_files_only=True, trust_remote_code=False
        )
        model, report = transformers.BertModel.from_pretrained(
            path, local_files_only=True, add_pooling_layer=False, output_loading_info=True
        )
        if report["missing_keys"]:  # transformers would leave these weights random
            raise ValueError(f"entries are missing, e.g. {sorted(report['missing_keys'])[0]}")
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{folder}: cannot be read as BERT ({reason})") from None
    return BertText(model=model, tokenizer=tokenizer)
