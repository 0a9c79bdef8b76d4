"""The model "sparsefire" of EleutherAI's lm-evaluation-harness (extra "lm-eval").

    python -m sparsefire.lm_eval --model sparsefire --model_args model=model.gguf --tasks hellaswag

is `lm_eval` with this model known to it; in Python, importing this module makes it known, and
`lm_eval.simple_evaluate(model="sparsefire", …)` finds it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .batch.settings import ModelSettings, opened
from .batch.shards import answers
from .batch.workers import Answer, Generator, Row, Scorer, Worker
from .errors import BackendError, SparsefireError
from .lm.model import Model
from .lm.scoring import pair_ids, rolling_windows

try:
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
    from tqdm import tqdm
except ImportError as error:
    raise BackendError(
        "sparsefire.lm_eval needs lm-eval: pip install 'sparsefire[lm-eval]'"
    ) from error

_NEW_TOKENS = 256  # of a text, unless its task says otherwise
_RENAMED = {"until": "stop", "max_gen_toks": "max_tokens", "repetition_penalty": "repeat_penalty"}


@register_model("sparsefire")
class SparsefireLM(LM):  # type: ignore[misc]
    """A model file, whose requests are answered by `sparsefire.batch` here or on an engine.

    model: a path or an fsspec URL, also as `pretrained`; by default the package's model.
    engine, workers, address: see `sparsefire.batch.run_job`. settings: fields of `ModelSettings`,
      such as `mode`, `context` or `threads`; `batch_size`, `max_batch_size` and `device`, which
      the harness passes to every model, change nothing here.

    Texts are cut as with the harness's own models: of what is longer than the context, the end
    counts. In contexts, names of control tokens are those tokens. Errors: those of `Model.load`;
    `SparsefireError` for a request that has no answer.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        pretrained: str | None = None,
        engine: str = "local",
        workers: int | None = None,
        address: str | None = None,
        batch_size: object = None,
        max_batch_size: object = None,
        device: object = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        self._settings = ModelSettings(model or pretrained, **settings)
        self._engine: dict[str, Any] = {"engine": engine, "workers": workers, "address": address}
        with opened(self._settings) as found:  # what is wrong with it is said now
            self._name = found.model.config.name

    # -- requests, as `lm_eval.api.model.LM` has them ----------------------------------------------

    def loglikelihood(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """The log probability of each request's continuation after its context, and whether greedy
        decoding would give it."""
        with opened(self._settings) as found:
            rows = [self._scored(found.model, *each.args) for each in requests]
        scores = self._answered(Scorer, rows, disable_tqdm)
        results = [(each["logprob"], bool(each["is_greedy"])) for each in scores]
        for request, result in zip(requests, results, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, result)
        return results

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """The log probability of each request's text, given as many before each token as fit."""
        rows: list[Row] = []
        owners: list[int] = []
        with opened(self._settings) as found:
            for place, request in enumerate(requests):
                windows = list(_rolling_rows(found.model, request.args[0]))
                rows += windows
                owners += [place] * len(windows)
        totals = [0.0] * len(requests)
        for place, score in zip(owners, self._answered(Scorer, rows, disable_tqdm), strict=True):
            totals[place] += score["logprob"]
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The text that follows each request's context, up to one of the texts in `until`."""
        with opened(self._settings) as found:
            rows = [_prompt(found.model, *each.args) for each in requests]
        texts = [row["generated_text"] for row in self._answered(Generator, rows, disable_tqdm)]
        for request, text in zip(requests, texts, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, text)
        return texts

    # -- chat templates ----------------------------------------------------------------------------

    @property
    def tokenizer_name(self) -> str:
        """What tells this tokeniser and template from others, for the harness's caches."""
        return f"sparsefire-{self._settings.model or self._name}".replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The Jinja2 source of the model's template, by name, or None if none is to be applied."""
        if not chat_template:
            return None
        with opened(self._settings) as found:
            sources = found.model.chat_template.sources
        return sources[chat_template if isinstance(chat_template, str) else "default"]

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A conversation as text. Without `add_generation_prompt` it ends with the last message, so
        that the model goes on with it."""
        with opened(self._settings) as found:
            shown = found.model.apply_chat_template(chat_history, add_generation_prompt)
        if add_generation_prompt:
            return shown
        last = chat_history[-1]["content"].rstrip()
        return shown[: shown.rindex(last) + len(last)]

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes beside the results."""
        with opened(self._settings) as found:
            name = found.model.file.name
        return {"model_name": self._name, "model_file": str(name)}

    # -- how they are answered ---------------------------------------------------------------------

    def _scored(self, model: Model, context: str, continuation: str) -> Row:
        ids, first = pair_ids(model.tokenizer, context, continuation, special=True)
        left_out = max(0, min(len(ids) - model.context - 1, first - 1))
        return {"context": ids[left_out:first], "continuation": ids[first:]}

    def _answered(
        self, kind: type[Worker], rows: Sequence[Row], disable_tqdm: bool
    ) -> list[Answer]:
        """The answers of rows, in which errors are raised."""
        worker = kind(**vars(self._settings))
        with tqdm(total=len(rows), disable=disable_tqdm, desc="sparsefire") as bar:
            found = answers(
                worker, rows, **self._engine, progress=lambda _what, share: _move(bar, share)
            )
        for answer in found:
            if answer.get("error") is not None:
                raise SparsefireError(f"a request has no answer: {answer['error']}")
        return found


def _move(bar: Any, share: float) -> None:
    bar.update(round(share * bar.total) - bar.n)


def _rolling_rows(model: Model, text: str) -> Iterator[Row]:
    """What scores each token of a text once, the first after the BOS token, or else the EOS."""
    tokenizer = model.tokenizer
    ids = tokenizer.encode(text, add_bos=False, add_eos=False)
    before = tokenizer.bos if tokenizer.bos is not None else tokenizer.eos
    ids = ids if before is None else [before, *ids]
    for tokens, first in rolling_windows(ids, model.context):
        yield {"context": tokens[:first], "continuation": tokens[first:]}


def _prompt(model: Model, context: str, given: Mapping[str, Any]) -> Row:
    """The end of a context that leaves room for the new tokens, with the options of generation."""
    options = {_RENAMED.get(name, name): value for name, value in given.items()}
    if not options.pop("do_sample", options.get("temperature", 0.0) > 0):
        options["temperature"] = 0.0
    most = min(int(options.setdefault("max_tokens", _NEW_TOKENS)), model.context - 1)
    options["max_tokens"] = most
    ids = model.tokenize(context)
    return {"prompt": ids[-(model.context - most) :], "sampling_params": options}


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
