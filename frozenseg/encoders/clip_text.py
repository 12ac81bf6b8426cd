"""CLIP's own text tower through open_clip: names to vectors.

Legend: N texts, D joint space.
"""

import hashlib
import json

import open_clip
import torch
import torch.nn.functional as F
from open_clip.transformer import QuickGELU, text_global_pool
from torch import Tensor, nn

from frozenseg.encoders.clip_config import clip_config
from frozenseg.encoders.frozen import Frozen, add_tensors
from frozenseg.errors import TextTooLong


class ClipText(Frozen):
    """The text half of a CLIP; the image half may be there or not (`without_image_tower`)."""

    def __init__(self, *, model: open_clip.CLIP, name: str) -> None:
        """model: from `build_clip_model`. name: of its architecture, as open_clip knows it."""
        super().__init__()
        self.model = self.freeze(model)
        self.name = name
        self.tokenizer = open_clip.SimpleTokenizer(context_length=model.context_length)

    @property
    def embed_dim(self) -> int:
        """D."""
        return self.model.text_projection.shape[-1]

    @torch.no_grad()
    def encode_text(self, texts: list[str], batch_size: int = 128) -> Tensor:
        """(N, D) vectors, not normalised, in the order of `texts`: those of open_clip's
        `encode_text`.

        A text is known at its end, and no place sees a later one: what is behind the end of the
        longest text of a batch is left out, and texts of like length go together.
        """
        tokens = self.tokenizer(texts)  # (N, context length), zeros behind the end of a text
        for row in (tokens[:, -1] != 0).nonzero()[:, 0].tolist():
            # Full to the last place: the tokenizer may have cut it silently.
            length = len(self.tokenizer.encode(texts[row])) + 2  # start and end of text
            if length > self.model.context_length:
                raise TextTooLong(texts[row], row, length, self.model.context_length)
        lengths = tokens.argmax(1) + 1  # the end of a text is the last entry of the vocabulary
        order = lengths.argsort()
        parts = [
            self._encode(tokens[rows, : int(lengths[rows].max())])
            for rows in order.split(batch_size)
        ]
        return torch.cat(parts).float()[order.argsort()]

    def _encode(self, tokens: Tensor) -> Tensor:
        """Tokens (N, L) with their ends -> (N, D): open_clip's steps on the first L places."""
        model, length = self.model, tokens.shape[1]
        tokens = tokens.to(model.positional_embedding.device)
        if model.attn_mask is None or model.text_pool_type not in ("argmax", "eos"):
            # Places that see later ones, or another end: as it stands.
            return model.encode_text(F.pad(tokens, (0, model.context_length - length)))
        kind = model.transformer.get_cast_dtype()
        x = model.token_embedding(tokens).to(kind) + model.positional_embedding[:length].to(kind)
        x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
        ends = text_global_pool(x, tokens, model.text_pool_type, eos_token_id=model.text_eos_id)
        return ends @ model.text_projection

    def text_fingerprint(self) -> str:
        """A digest of all that decides text vectors: architecture, weights, open_clip's version."""
        digest = hashlib.sha256()
        about = [clip_config(self.name), has_quick_gelu(self.model.transformer)]
        digest.update(json.dumps([*about, open_clip.__version__]).encode())
        # Without the image tower, whose weights, if packed, would all be laid out for it.
        state: dict[str, Tensor] = dict(self.model.named_parameters(recurse=False))
        for name, part in self.model.named_children():
            if name != "visual":
                state |= part.state_dict(prefix=f"{name}.")
        add_tensors(digest, state)
        return digest.hexdigest()


def has_quick_gelu(module: nn.Module) -> bool:
    """Whether OpenAI's activation is in it."""
    return any(isinstance(part, QuickGELU) for part in module.modules())


def without_image_tower(model: open_clip.CLIP) -> open_clip.CLIP:
    """The same model, its image tower replaced by nothing: encoding text does not need it."""
    model.visual = nn.Identity()
    return model
