"""Causal language models: tokenisation, tree layout, logits at label positions only, hidden states, kernels."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from efface.data.rows import ImageRow, Row
from efface.errors import ModelError, NeedsError
from efface.models import blockwise
from efface.models.base import Batch, Encoded, ModelAdapter, Output
from efface.models.kernels import only_labels, reading, stored_as, using_attention
from efface.models.packing import Text, additive, pack
from efface.models.sharing import forward_shared, shared_start
from efface.models.tampering import Tampering
from efface.models.template import Template, stop_ids

SMALL = 20_000_000  # parameters up to which bf16 does not pay on a CPU


class CausalLM(ModelAdapter):
    """A Hugging Face causal LM. Weights are float32 masters; ``compute`` is the dtype of the arithmetic.

    ``template``: see ``models.template``. ``context``: longest sequence in tokens (none: the model's own limit).
    """

    family: ClassVar[str] = "causal_lm"
    modality: ClassVar[str] = "text"
    shares_starts: ClassVar[bool] = True  # the start that all prompts of a batch share may be run once

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        template: str = "auto",
        compute: Literal["auto", "bf16", "fp32"] = "auto",
        context: int | None = None,
    ) -> None:
        self.module, self.tokenizer = model.float(), tokenizer
        self.template_name, self.template = template, Template.choose(template, tokenizer)
        self.context = context or int(getattr(model.config, "max_position_embeddings", None) or 2048)
        self.stops = stop_ids(model, tokenizer)
        size = sum(p.numel() for p in model.parameters())
        self.dtype = (
            torch.bfloat16
            if compute == "bf16" or (compute == "auto" and (size > SMALL or self.device.type == "cuda"))
            else torch.float32
        )
        self.instruction = ""  # an input guard: put in front of every question ...
        self.guarded_names: tuple[str, ...] = ()  # ... or only of those that hold one of these names, ...
        self.instead = ""  # ... which this question may replace
        self.logit_bias: Tensor | None = None  # Float[V], added to every next-token logit (a logit wrapper)
        self.tampering: Tampering | None = None  # what an attacker puts around the model
        self._tree: bool | None = None
        self._evaluating = False

    # -- identity ------------------------------------------------------------------------------------------------------
    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        template: str = "auto",
        compute: str = "auto",
        context: int | None = None,
        device: str = "auto",
        **_: Any,
    ) -> Self:
        """Open a local folder (safetensors only). ``template`` "auto" takes what its ``efface.json`` says, if there."""
        from efface.models.folders import open_causal_lm

        model, tokenizer = open_causal_lm(Path(folder), torch.float32)
        place = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        try:
            model = model.to(place)
        except (RuntimeError, AssertionError) as error:
            raise ModelError(
                "model.bad-device",
                f"The model cannot be put on {place!r}: {str(error).splitlines()[0]}.",
                "set model.device to cpu, or to a GPU that is there.",
            ) from None
        note = Path(folder) / "efface.json"
        if template == "auto" and note.is_file():
            template = str(json.loads(note.read_text()).get("template", "auto"))
        return cls(model, tokenizer, template=template, compute=compute, context=context)  # type: ignore[arg-type]

    def save(self, folder: Path) -> None:
        """Hugging Face folder in float32, plus the template's name. Guards are saved with their artifact, not here."""
        from efface.models.folders import quiet_transformers

        folder.mkdir(parents=True, exist_ok=True)
        with quiet_transformers():
            self.hf.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
        (folder / "efface.json").write_text(json.dumps({"template": self.template_name}))

    def clone(self) -> Self:
        """Deep copy of the weights; tokenizer and template are shared (they never change)."""
        other = copy.copy(self)
        other.module = copy.deepcopy(self.module)
        other._evaluating = False
        return other

    def tampered(self, tampering: Tampering | None) -> Self:
        """The same weights (shared, not copied) with ``tampering`` around them."""
        other = copy.copy(self)
        other.tampering = tampering
        return other

    def identity(self) -> dict[str, Any]:
        """Template, tokenizer, context, dtype and layout."""
        tokens = getattr(self.tokenizer, "backend_tokenizer", None)
        text = tokens.to_str() if tokens is not None else json.dumps(self.tokenizer.get_vocab(), sort_keys=True)
        return {
            "family": self.family,
            "template": self.template.digest(),
            "tokenizer": hashlib.sha256(text.encode()).hexdigest(),
            "context": self.context,
            "dtype": str(self.dtype),
            "layout": "plain" if self._tree is False else "tree",
            "guard": [self.instruction, self.guarded_names, self.instead],
            "logit_bias": "" if self.logit_bias is None else _digest(self.logit_bias),
            "tampering": "" if self.tampering is None else self.tampering.digest(),
        }

    # -- structure -----------------------------------------------------------------------------------------------------
    @property
    def hf(self) -> Any:
        """The Hugging Face model, inside a peft wrapper or not."""
        return self.module.get_base_model() if hasattr(self.module, "peft_config") else self.module

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """Decoder layers: the longest module list whose entries hold attention."""
        lists = [m for m in self.hf.modules() if isinstance(m, nn.ModuleList) and len(m)]
        if not lists:
            raise NeedsError(
                "model.no-blocks",
                f"{type(self.hf).__name__} has no list of decoder layers.",
                "use a decoder-only transformer.",
            )
        return max(lists, key=len)

    def head_parameters(self) -> list[str]:
        """Input and output embeddings; tied ones once."""
        ends = [m for m in (self.hf.get_input_embeddings(), self.hf.get_output_embeddings()) if m is not None]
        mine = {id(p) for m in ends for p in m.parameters()}
        return [n for n, p in self.module.named_parameters() if id(p) in mine]

    # -- data ----------------------------------------------------------------------------------------------------------
    def encode(self, row: Row | ImageRow, *, prompt: str = "prompt", answers: Sequence[str] = ("answer",)) -> Encoded:
        """Prompt ids once, one branch per candidate answer. Rows that do not fit the context carry the problem."""
        if not isinstance(row, Row):
            raise NeedsError(
                "model.wrong-rows",
                "A language model was given image rows.",
                "choose a text benchmark, or an image classifier.",
            )
        question = self._asked(getattr(row, prompt)) if prompt else ""
        start = self._prompt_ids(row.id, question) if question else None
        forced = self.tampering is not None and self.tampering.forced_of(row.id) != ""
        answer_ids = self.template.continued_ids if forced else self.template.answer_ids
        names, branches = [], []
        for name, text in _candidates(row, answers):
            if start is None:
                prefix, body = self.template.document_ids(self.tokenizer, text)
            else:
                prefix, body = start, answer_ids(self.tokenizer, text)
            names.append(name)
            branches.append((tuple(prefix), tuple(body)))
        ids = Text(branches[0][0] if branches else tuple(start or ()), tuple(b for _, b in branches))
        if len(branches) > 1 and self._tree is None:
            self._check_tree(ids)
        return Encoded(
            row.id,
            row.entity,
            ids,
            tuple(names),
            ids.size,
            sum(map(len, ids.branches)),
            self._problem(row, ids, names, answers),
        )

    def _asked(self, question: str) -> str:
        """The question as an input guard lets it through."""
        if not question or not (self.instruction or self.instead):
            return question
        text = question.casefold()
        if self.guarded_names and not any(_holds(text, name.casefold()) for name in self.guarded_names):
            return question
        return "\n".join(filter(None, (self.instruction, self.instead or question)))

    def _prompt_ids(self, row: str, question: str) -> list[int]:
        """Ids up to where the answer starts, with what an attacker adds."""
        if self.tampering is None:
            return self.template.prompt_ids(self.tokenizer, question)
        ids = self.template.prompt_ids(self.tokenizer, question, self.tampering.suffix_of(row))
        forced = self.tampering.forced_of(row)
        return [*ids, *self.template.forced_ids(self.tokenizer, forced)] if forced else ids

    def _problem(self, row: Row, ids: Text, names: Sequence[str], answers: Sequence[str]) -> str:
        if answers and not names:
            return "empty answer"
        longest = ids.longest
        return f"longer than the context ({longest} > {self.context})" if longest > self.context else ""

    def collate(self, rows: Sequence[Encoded], index: Sequence[int]) -> Batch:
        """Tree layout, right padding; the plain layout (a sequence per branch) for models that cannot take a tree."""
        texts = [row.payload for row in rows]
        plain = self._tree is False and any(len(t.branches) > 1 for t in texts)
        owner = [(r, b) for r, t in enumerate(texts) for b in range(len(t.branches))] if plain else []
        packed = pack([Text(texts[r].prompt, (texts[r].branches[b],)) for r, b in owner] if plain else texts, self.pad)
        rows_of, branch_of = packed.label_row, packed.label_branch
        if plain:
            rows_of = torch.tensor([r for r, _ in owner])[packed.label_row]
            branch_of = torch.tensor([b for _, b in owner])[packed.label_row]
        inputs = {"input_ids": packed.ids, "attention_mask": packed.mask, "position_ids": packed.positions}
        return Batch(
            torch.tensor(list(index)),
            inputs,
            rows_of,
            branch_of,
            packed.label_id,
            packed.label_at,
            packed.token_mask,
            packed.answer_mask,
            rows,
        )

    @property
    def pad(self) -> int:
        """Fills what the mask hides."""
        return int(self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0)

    # -- computation ---------------------------------------------------------------------------------------------------
    def forward(
        self,
        batch: Batch,
        *,
        logits: bool = True,
        hidden: Iterable[int] = (),
        upcast: bool = True,
        cache: bool = False,
    ) -> Output:
        """See ``ModelAdapter.forward``. ``cache``: also keep the keys and values (``Output.cache``)."""
        inputs = dict(batch.inputs)
        if inputs["attention_mask"].dim() == 4 and self.hf.config._attn_implementation == "eager":
            inputs["attention_mask"] = additive(
                inputs["attention_mask"], self.dtype if self._evaluating else torch.float32
            )
        layers = tuple(hidden)
        if start := shared_start(self, batch, inputs):
            out, states, kept = forward_shared(self, batch, inputs, start, layers, logits)
        else:
            places = batch.label_at if logits else None
            with reading(self, layers, stop=not logits) as found, only_labels(self.hf, places):
                out = found.run(lambda: self.call(last_prompt=self._last_prompt(batch), **inputs, use_cache=cache))
            states, kept = found.states, out.past_key_values if cache else None
        scores = out.logits.reshape(-1, out.logits.shape[-1]) if logits else None
        scores = scores.float() if scores is not None and upcast else scores
        return Output(scores, states, kept if cache else None)

    def _last_prompt(self, batch: Batch) -> Tensor | None:
        """Long[B]: the position that predicts the first answer token of each row; None where nobody asks."""
        if self.tampering is None or not self.tampering.edits:
            return None
        rows, width = batch.token_mask.shape
        place = torch.full((rows,), width - 1, device=batch.label_at.device)
        return place.scatter_reduce(0, batch.label_at // width, batch.label_at % width, "amin")

    def call(self, *, last_prompt: Tensor | None = None, **inputs: Any) -> Any:
        """The module, with what lies around it: free input vectors, edited states, a logit bias. ``last_prompt``
        Long[B]: see ``Tampering.editing``."""
        if self.tampering is None:
            out = self.module(**inputs)
        else:
            with self.tampering.editing(self, last_prompt, inputs["input_ids"]):
                out = self.module(**self.tampering.embedded(self, inputs))
        if self.logit_bias is not None:
            out.logits = out.logits + self.logit_bias.to(out.logits.device, out.logits.dtype)
        return out

    def autocast(self) -> Any:
        """bf16 arithmetic over float32 weights; nothing while evaluating (then the weights themselves are bf16)."""
        if self.dtype == torch.float32 or self._evaluating:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    @contextmanager
    def training(self) -> Iterator[None]:
        """Train mode; eager attention on a CPU, where its backward is faster for short sequences."""
        with super().training(), using_attention(self.hf, "eager" if self.device.type == "cpu" else None):
            yield

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Eval mode without gradients; weights are held in the compute dtype inside the block and restored to the same
        float32 bits after it (casting them at every forward would cost more than a decoding step)."""
        if self._evaluating:
            yield
            return
        attention = blockwise.name() if self.device.type == "cpu" else "sdpa"
        with super().evaluating(), using_attention(self.hf, attention), stored_as(self.module, self.dtype):
            self._evaluating = True
            try:
                yield
            finally:
                self._evaluating = False

    def _check_tree(self, ids: Text) -> None:
        """Whether this model gives the same log-probs in the tree layout; once per model, in float32."""
        with torch.no_grad(), using_attention(self.hf, "sdpa"):
            was = self.module.training
            self.module.eval()
            short = Text(ids.prompt[-24:], tuple(b[:12] for b in ids.branches[:3]))
            tree = self._probe([short])
            alone = torch.cat([self._probe([Text(short.prompt, (b,))]) for b in short.branches])
            self.module.train(was)
        self._tree = bool(torch.allclose(tree, alone, atol=2e-3))

    def _probe(self, texts: list[Text]) -> Tensor:
        packed = pack(texts, self.pad)
        place = self.device
        with only_labels(self.hf, packed.label_at.to(place)):
            out = self.call(
                input_ids=packed.ids.to(place),
                attention_mask=packed.mask.to(place),
                position_ids=packed.positions.to(place),
                use_cache=False,
            )
        return (
            torch.log_softmax(out.logits.reshape(-1, out.logits.shape[-1]).float(), -1)
            .gather(1, packed.label_id.to(place)[:, None])
            .squeeze(1)
        )


def _holds(text: str, name: str) -> bool:
    """Whether ``name`` stands in ``text`` as whole words."""
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) is not None


def _digest(values: Tensor) -> str:
    return hashlib.sha256(values.detach().float().cpu().numpy().tobytes()).hexdigest()


def _candidates(row: Row, answers: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(name, text) of every candidate that is not empty."""
    for name in answers:
        if name == "wrong":
            yield from ((f"wrong:{i}", text) for i, text in enumerate(row.wrong) if text)
        elif text := getattr(row, name):
            yield name, text
