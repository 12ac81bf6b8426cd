"""CLIP's text tower from open_clip.

Legend: N texts, L tokens, D dimension of the joint space.
"""

import hashlib
import json
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from open_clip.transformer import QuickGELU, text_global_pool
from torch import Tensor, nn

from frozenseg.encoders.clip_config import clip_config
from frozenseg.encoders.frozen import Frozen, add_tensors
from frozenseg.errors import TextTooLong, UserError, import_extra


class ClipText(Frozen):
    """The text tower of a CLIP; the image tower may have been removed (`without_image_tower`)."""

    def __init__(self, *, model: Any, name: str) -> None:
        """model: from `build_clip_model`. name: name of its architecture in open_clip."""
        super().__init__()
        self.model = self.freeze(model)
        self.name = name
        self.tokenizer = build_tokenizer(name, model.context_length)

    @property
    def embed_dim(self) -> int:
        """D, the dimension of the joint space."""
        tower = getattr(self.model, "text", None)
        return self.model.text_projection.shape[-1] if tower is None else tower.output_dim

    @torch.no_grad()
    def encode_text(self, texts: list[str], batch_size: int = 128) -> Tensor:
        """Return the vectors (N, D) of open_clip's `encode_text`, not normalised, in the order of
        `texts`.

        The text tower is causal and its output is taken at the end-of-text token, so padding after
        the longest text of a batch can be cut off; for this, texts are sorted by length. Raises
        `TextTooLong` for a text that the tokenizer would truncate.
        """
        if not has_own_tokenizer(self):
            return self._encode_padded(texts, batch_size)
        tokens = whole_tokens(self.tokenizer, texts, self.model.context_length)
        # The end-of-text token has the largest id.
        lengths = tokens.argmax(1) + 1
        order = lengths.argsort()
        parts = [
            self._encode(tokens[rows, : int(lengths[rows].max())])
            for rows in order.split(batch_size)
        ]
        return torch.cat(parts).float()[order.argsort()]

    def _encode(self, tokens: Tensor) -> Tensor:
        """Return vectors (N, D) of tokens (N, L), by open_clip's steps on L positions."""
        model, length = self.model, tokens.shape[1]
        tokens = tokens.to(model.logit_scale.device)
        own_tower = hasattr(model, "text")
        if own_tower or model.attn_mask is None or model.text_pool_type not in ("argmax", "eos"):
            # Padding may matter: the tower may not be causal, or may pool other tokens.
            return model.encode_text(F.pad(tokens, (0, model.context_length - length)))
        dtype = model.transformer.get_cast_dtype()
        x = model.token_embedding(tokens).to(dtype) + model.positional_embedding[:length].to(dtype)
        x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
        ends = text_global_pool(x, tokens, model.text_pool_type, eos_token_id=model.text_eos_id)
        return ends @ model.text_projection

    def _encode_padded(self, texts: list[str], batch_size: int) -> Tensor:
        """Like `encode_text`, with a transformers tokenizer, which pads texts to one length."""
        limit = self.model.context_length
        for index, text in enumerate(texts):
            length = len(self.tokenizer.tokenizer(text)["input_ids"])
            if length > limit:
                raise TextTooLong(text, index, length, limit)
        device = self.model.logit_scale.device
        parts = [
            self.model.encode_text(self.tokenizer(texts[start : start + batch_size]).to(device))
            for start in range(0, len(texts), batch_size)
        ]
        return torch.cat(parts).float()

    def text_fingerprint(self) -> str:
        """Return a digest of everything that vectors depend on: architecture, weights, and the
        version of open_clip."""
        digest = hashlib.sha256()
        tower = getattr(self.model, "text", None) or self.model
        about = [clip_config(self.name), has_quick_gelu(tower.transformer)]
        digest.update(json.dumps([*about, open_clip.__version__]).encode())
        # The image tower is skipped: if prepacked, its weights would have to be converted.
        state: dict[str, Tensor] = dict(self.model.named_parameters(recurse=False))
        for name, part in self.model.named_children():
            if name != "visual":
                state |= part.state_dict(prefix=f"{name}.")
        add_tensors(digest, state)
        return digest.hexdigest()


def has_own_tokenizer(encoder: ClipText) -> bool:
    """Return whether the tokenizer is CLIP's own, and not one from transformers."""
    return isinstance(encoder.tokenizer, open_clip.SimpleTokenizer)


def whole_tokens(tokenizer: open_clip.SimpleTokenizer, texts: list[str], limit: int) -> Tensor:
    """Return tokens (N, limit) of texts, with zeros after the end of a text.

    Raises `TextTooLong` for a text that the tokenizer would truncate.
    """
    tokens = tokenizer(texts)
    for row in (tokens[:, -1] != 0).nonzero()[:, 0].tolist():
        # The context is full: the tokenizer may have truncated the text silently.
        length = len(tokenizer.encode(texts[row])) + 2  # the start-of-text and end-of-text tokens
        if length > limit:
            raise TextTooLong(texts[row], row, length, limit)
    return tokens


def build_tokenizer(name: str, context_length: int) -> Any:
    """Return the tokenizer of a CLIP: its own, or one from transformers, read from the cache of the
    Hugging Face hub.

    Nothing is downloaded: if the tokenizer is not in the cache, the `UserError` says how to get it.
    """
    text = clip_config(name)["text_cfg"]
    source = text.get("hf_tokenizer_name")
    if not source:
        return open_clip.SimpleTokenizer(context_length=context_length)
    import_extra("transformers", "fusioner", f"{name}: the tokenizer {source}")
    more = text.get("tokenizer_kwargs") or {}
    try:
        return open_clip.tokenizer.HFTokenizer(
            source, context_length=context_length, local_files_only=True, **more
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{name}: its tokenizer is not cached; fetch it with `hf download {source}` ({reason})"
        ) from None


def has_quick_gelu(module: nn.Module) -> bool:
    """Return whether the module uses QuickGELU, the activation of OpenAI's CLIP."""
    return any(isinstance(part, QuickGELU) for part in module.modules())


def without_image_tower(model: Any) -> Any:
    """Remove the image tower of a model, which can then only encode text."""
    model.visual = nn.Identity()
    return model
