"""Callable classes that map batches of rows to batches with results."""

from __future__ import annotations

import copy
import functools
import json
import string
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self, TypeVar

import numpy as np

from .._options import count, flag, instance, one_of, several, text
from ..errors import ArgumentError, SparsefireError
from ..lm.embedding import POOLINGS
from ..lm.generation import GenerationConfig
from ..lm.model import Model
from ..lm.packing import OF_ALL, Job, scores_job, text_job
from ..lm.ranking import Judge
from ..lm.sampling import TokenScore
from ..lm.scoring import continuation_ids, scored_ids
from .settings import ModelSettings, OpenedModel, opened
from .tables import Column, Kind, Table, table_of

T = TypeVar("T")
Row = Mapping[str, Any]
Answer = dict[str, Any]

# What a row, rather than the job, is to blame for.
ROW_ERRORS = (SparsefireError, KeyError, TypeError, ValueError)


class Worker(ABC):
    """Maps batches: calling it with one returns one of the same kind, with the columns of `results`
    added. A batch is a dictionary of columns (lists or numpy arrays), a list of rows
    (dictionaries), a `pyarrow.RecordBatch` or `Table`, or a `pandas.DataFrame`.

    The model is loaded at the first batch, once in each process, however many workers it has; a
    worker itself is small and can be pickled. A row that fails has an error in the column "error",
    and None as its results; the others have None there.

    columns: other names for columns that are read or written, as in
      {"prompt": "question", "generated_text": "answer"}; None leaves a column of results out.
    settings: the fields of `ModelSettings` as keyword arguments.
    """

    reads: ClassVar[tuple[str, ...]]  # columns
    may_read: ClassVar[tuple[str, ...]] = ()  # those that batches may lack
    results: ClassVar[dict[str, Kind]]
    drops: ClassVar[tuple[str, ...]] = ()  # columns that a job does not write again

    def __init__(
        self,
        model: str | None = None,
        *,
        columns: Mapping[str, str | None] | None = None,
        **settings: Any,
    ) -> None:
        self.settings = ModelSettings(model, **settings)
        self.columns = dict(instance(Mapping)({} if columns is None else columns, "columns"))
        known = {*self.reads, *self.may_read, *self.results, "error"}
        for name, own in self.columns.items():
            if name not in known:
                raise ArgumentError(f"columns: {name!r} is none of {', '.join(sorted(known))}")
            if own is not None or name in (*self.reads, *self.may_read):
                text(own, f"columns[{name!r}]")
        written = [own for own, _, _ in self._written()]
        for own in written:
            if written.count(own) > 1:
                raise ArgumentError(f"columns: two columns of results are named {own!r}")

    def __call__(self, batch: Any) -> Any:
        """The batch with results. Errors: `ArgumentError` (it is of no kind known here, or lacks a
        column), and those of `Model.load`."""
        table = table_of(batch)
        return table.with_columns(self.columns_of(table)[0])

    def columns_of(
        self, table: Table, answer: Callable[[Sequence[Row]], list[Answer]] | None = None
    ) -> tuple[dict[str, Column], list[Answer]]:
        """The columns of results, by the user's names, and the answers that they were made of, by
        `answer`, by default `answers`."""
        read = {name: table.column(self._own(name)) for name in self._columns_read()}
        for name in self.may_read:
            if table.has(self._own(name)):
                found = table.column(self._own(name))
                read[name] = [None if isinstance(v, KeyError) else v for v in found]
        rows = [dict(zip(read, values, strict=True)) for values in zip(*read.values(), strict=True)]
        answers = (answer or self.answers)(rows)
        columns = {
            own: Column(kind, [answer.get(name) for answer in answers])
            for own, name, kind in self._written()
        }
        return columns, answers

    @property
    def inputs(self) -> tuple[str, ...]:
        """The columns that every batch has to have, by the user's names."""
        return tuple(self._own(name) for name in self._columns_read())

    @property
    def outputs(self) -> dict[str, Kind]:
        """The columns that are added, by the user's names, and their kinds."""
        return {own: kind for own, _, kind in self._written()}

    def _written(self) -> Iterator[tuple[str, str, Kind]]:
        for name, kind in {**self.results, "error": "text"}.items():
            if (own := self.columns.get(name, name)) is not None:
                yield own, name, kind

    def answers(self, rows: Sequence[Row]) -> list[Answer]:
        """The results of each row, or {"error": …}, by the names of `reads` and `results`."""
        with opened(self.settings) as found:
            return self._answers(found, rows)

    def on(self, engine: str, workers: int | None) -> Self:
        """This one for processes of an engine; see `ModelSettings.on`."""
        sent = copy.copy(self)
        sent.settings = self.settings.on(engine, workers)
        return sent

    def description(self) -> dict[str, Any]:
        """What decides about results, for the checksum of a job."""
        mine = {name: value for name, value in vars(self).items() if name != "settings"}
        settings = vars(self.settings)
        ignored = ("threads", "backend", "mapped", "sessions", "neuron_budget")
        kept = {name: value for name, value in settings.items() if name not in ignored}
        return {"worker": type(self).__name__, **kept, **mine}

    def _columns_read(self) -> tuple[str, ...]:
        return self.reads

    def _own(self, name: str) -> Any:
        """The user's name of a column that is read."""
        return self.columns.get(name, name)

    @abstractmethod
    def _answers(self, found: OpenedModel, rows: Sequence[Row]) -> list[Answer]:
        """The same with the model."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.settings.model or 'the model of the package'})"


def failed(error: BaseException) -> Answer:
    """The answer of a row with an error."""
    if isinstance(error, KeyError):
        return {"error": f"ArgumentError: {error.args[0]}"}
    return {"error": f"{type(error).__name__}: {error}"}


def _value(row: Row, name: str) -> Any:
    """A value of a row; raises the error of one that is not there."""
    value = row[name]
    if isinstance(value, KeyError):
        raise value
    if value is None or (isinstance(value, float) and np.isnan(value)):
        raise ArgumentError(f"the row's {name} is empty")
    return value


def _text(row: Row, name: str) -> str:
    return text(_value(row, name), name)


class _Plan(NamedTuple):
    """What a row takes: the tokens of its jobs, which are begun when it is their turn, and what
    makes an answer of their results."""

    tokens: Sequence[int]
    jobs: Sequence[Callable[[], Job[Any]]]
    answer: Callable[[list[Any]], Answer]
    mode: str


def _packed(
    found: OpenedModel, rows: Sequence[Row], plan: Callable[[Model, Row], _Plan]
) -> list[Answer]:
    """Answers rows with jobs that are evaluated together."""
    answers: list[Answer] = [{} for _ in rows]
    plans: dict[int, _Plan] = {}
    for place, row in enumerate(rows):
        try:
            plans[place] = plan(found.model, row)
        except OF_ALL:
            raise
        except ROW_ERRORS as error:
            answers[place] = failed(error)
    results: dict[int, list[Any]] = {place: [None] * len(p.jobs) for place, p in plans.items()}
    for mode in {each.mode for each in plans.values()}:
        places = _in_order({at: p.tokens for at, p in plans.items() if p.mode == mode})
        turns = [(at, k) for at in places for k in range(len(plans[at].jobs))]
        jobs = (plans[at].jobs[k]() for at, k in turns)
        for turn, result in found.packing(mode).run(jobs):
            at, k = turns[turn]
            results[at][k] = result
    for place, each in plans.items():
        errors = [value for value in results[place] if isinstance(value, SparsefireError)]
        answers[place] = failed(errors[0]) if errors else each.answer(results[place])
    return answers


def _in_order(tokens: Mapping[int, Sequence[int]]) -> list[int]:
    """The places of rows in the order in which they are begun: those with a common beginning one
    after the other, and of these groups that with the longest row first, so that a short one is
    the last to end."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, each in tokens.items():
        groups.setdefault(tuple(each[:32]), []).append(place)
    longest = {key: max(len(tokens[at]) for at in places) for key, places in groups.items()}
    order = sorted(groups, key=lambda key: (-longest[key], key))
    return [at for key in order for at in sorted(groups[key], key=lambda at: list(tokens[at]))]


# -- generating ------------------------------------------------------------------------------------


class Generator(Worker):
    """Continues the text of the column "prompt" (or token ids, or what `template` makes of other
    columns, as in "Translate: {text}") with `Model.generate`, which has the further options.

    A column "sampling_params", where batches have it, has options of single rows: a dictionary, or
    one as JSON. Results: "generated_text", "finish_reason" (see `Stats`), "prompt_tokens" and
    "completion_tokens". Rows with a `seed` give the text that they would give alone.
    """

    reads = ("prompt",)
    may_read = ("sampling_params",)
    results: ClassVar[dict[str, Kind]] = {
        "generated_text": "text",
        "finish_reason": "text",
        "prompt_tokens": "whole",
        "completion_tokens": "whole",
    }

    def __init__(
        self,
        model: str | None = None,
        *,
        columns: Mapping[str, str | None] | None = None,
        template: str | None = None,
        max_tokens: int | None = 64,
        options: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        settings, own = _split(settings)
        super().__init__(model, columns=columns, **settings)
        self.template = None if template is None else text(template, "template")
        given = instance(Mapping)({} if options is None else options, "options")
        self.options = {**given, **own, "max_tokens": max_tokens}
        checked_options(self.options)
        if self.template is not None:
            self._fields = _fields(self.template)
            if not self._fields:
                raise ArgumentError("template: names no column, as in {text}")

    def _columns_read(self) -> tuple[str, ...]:
        return self.reads if self.template is None else self._fields

    def _own(self, name: str) -> Any:
        fields = () if self.template is None else self._fields
        return self.columns.get(name, name) if name not in fields else name

    def _prompt(self, model: Model, row: Row) -> str | Sequence[int]:
        if self.template is None:
            value: str | Sequence[int] = _value(row, "prompt")
            return value
        return self.template.format(**{name: _value(row, name) for name in self._fields})

    def _plan(self, model: Model, row: Row) -> _Plan:
        options = {**self.options, **_row_options(row), "mode": self.settings.mode}
        prompt = self._prompt(model, row)
        n = count(options.pop("n", 1), "n", 1)
        if n != 1:
            raise ArgumentError("n: a row has one result; repeat the row")
        run, ids = model.prepared(prompt, **options)

        def answer(results: list[Any]) -> Answer:
            return {
                "generated_text": "".join(piece.text for piece in results[0]),
                "finish_reason": run.stats.finish_reason,
                "prompt_tokens": len(ids),
                "completion_tokens": run.stats.n_tokens,
            }

        return _Plan(ids, [lambda: text_job(run, ids)], answer, run.stats.mode)

    def _answers(self, found: OpenedModel, rows: Sequence[Row]) -> list[Answer]:
        return _packed(found, rows, self._plan)


class Chat(Generator):
    """Answers the conversation of the column "messages": a list of {"role", "content"}, or one as
    JSON. With `template`, other columns make the user's message, after a `system` message, if that
    is given. Options and results as those of `Generator`.

    chat_template, chat_template_kwargs: see `Model.create_chat_completion`.
    """

    reads = ("messages",)

    def __init__(
        self,
        model: str | None = None,
        *,
        system: str | None = None,
        chat_template: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        max_tokens: int | None = 256,
        **options: Any,
    ) -> None:
        super().__init__(model, max_tokens=max_tokens, **options)
        self.system = None if system is None else text(system, "system")
        self.chat_template = chat_template
        self.chat_template_kwargs = dict(chat_template_kwargs or {})

    def _prompt(self, model: Model, row: Row) -> Sequence[int]:
        if self.template is None:
            messages = parsed(_value(row, "messages"), "messages")
        else:
            messages = [{"role": "user", "content": str(super()._prompt(model, row))}]
        if isinstance(messages, np.ndarray):  # of pandas and of Ray's batches
            messages = messages.tolist()
        messages = several(_without_none)(messages, "messages")
        if self.system is not None:
            messages = [{"role": "system", "content": self.system}, *messages]
        shown = model.apply_chat_template(
            list(messages),
            chat_template=self.chat_template,
            **self.chat_template_kwargs,
        )
        return model.tokenize(shown)


def _without_none(message: Any, _name: str) -> Any:
    """A message without the keys that only messages of other rows have: Arrow fills them in."""
    if not isinstance(message, Mapping):
        return message
    return {key: value for key, value in message.items() if value is not None}


def parsed(value: Any, name: str) -> Any:
    """A value of a row that may be its JSON."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise ArgumentError(f"{name}: neither a list nor JSON") from None


def _row_options(row: Row) -> dict[str, Any]:
    value = row.get("sampling_params")
    if value is None or isinstance(value, float):
        return {}
    options = instance(Mapping)(parsed(value, "sampling_params"), "sampling_params")
    if "mode" in options:
        raise ArgumentError("sampling_params: the mode is the worker's, not a row's")
    return {name: each for name, each in options.items() if each is not None}


def checked_options(options: Mapping[str, Any]) -> None:
    """Raises the errors of options of generation that no row could have."""
    rest: Any = {name: value for name, value in options.items() if name != "max_tokens"}
    try:
        GenerationConfig.of(options.get("max_tokens"), None, rest)
    except TypeError as error:
        raise ArgumentError(str(error)) from None


def _split(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keyword arguments of the model's settings, and those of generation."""
    names = ModelSettings.__dataclass_fields__
    mine = {name: value for name, value in options.items() if name in names}
    rest = {name: value for name, value in options.items() if name not in names}
    return mine, rest


def _fields(template: str) -> tuple[str, ...]:
    """The columns that a template names."""
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise ArgumentError(f"template: {error}") from None
    for name in names:
        if not name.isidentifier():
            raise ArgumentError(f"template: {{{name}}} does not name a column")
    return tuple(dict.fromkeys(names))


# -- vectors ---------------------------------------------------------------------------------------


class Embedder(Worker):
    """The embedding of the column "text" with `Model.embed`: "embedding", float32 (d,), and
    "prompt_tokens". One text after the other: the tokens of a text fill a batch."""

    reads = ("text",)
    results: ClassVar[dict[str, Kind]] = {
        "embedding": "vector",
        "prompt_tokens": "whole",
    }

    def __init__(
        self,
        model: str | None = None,
        *,
        columns: Mapping[str, str | None] | None = None,
        normalize: bool = True,
        pooling: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(model, columns=columns, **settings)
        self.normalize = flag(normalize, "normalize")
        self.pooling = None if pooling is None else one_of(*POOLINGS)(pooling, "pooling")

    def _answers(self, found: OpenedModel, rows: Sequence[Row]) -> list[Answer]:
        return [_attempt(self._answer, found.model, row) for row in rows]

    def _answer(self, model: Model, row: Row) -> Answer:
        value = _value(row, "text")
        ids = model.tokenize(value, special=False) if isinstance(value, str) else value
        ids = model.prompt_ids(ids)
        pooling: Any = self.pooling
        mode = self.settings.mode
        vector = model.embed(ids, normalize=self.normalize, pooling=pooling, mode=mode)
        return {"embedding": vector, "prompt_tokens": len(ids)}


class Reranker(Worker):
    """How well the column "document" answers the column "query", with `Model.rerank`: "score", and
    "prompt_tokens" of both together."""

    reads = ("query", "document")
    results: ClassVar[dict[str, Kind]] = {"score": "number", "prompt_tokens": "whole"}

    def _answers(self, found: OpenedModel, rows: Sequence[Row]) -> list[Answer]:
        judge = found.model.judge
        return [_attempt(lambda _, row: self._answer(judge, row), found.model, row) for row in rows]

    def _answer(self, judge: Judge, row: Row) -> Answer:
        pair = judge.pair(*(text(_value(row, name), name) for name in self.reads))
        score = judge.score(pair, self.settings.mode)
        return {"score": score, "prompt_tokens": len(pair.ids)}


def _attempt(answer: Callable[[Model, Row], Answer], model: Model, row: Row) -> Answer:
    try:
        return answer(model, row)
    except OF_ALL:
        raise
    except ROW_ERRORS as error:
        return failed(error)


# -- scores ----------------------------------------------------------------------------------------


class Scorer(Worker):
    """How likely the model finds the text of the column "continuation" after that of "context",
    which batches may lack: then it comes after the BOS token, where the model has one. Both may be
    token ids, which are evaluated as they are. Results: "logprob", the sum of its tokens' natural
    log probabilities, "is_greedy", 1 if each of them was the most likely one, "prompt_tokens" of
    both, and "scored_tokens"."""

    reads = ("continuation",)
    may_read = ("context",)
    results: ClassVar[dict[str, Kind]] = {
        "logprob": "number",
        "is_greedy": "whole",
        "scored_tokens": "whole",
        "prompt_tokens": "whole",
    }

    def _plan(self, model: Model, row: Row) -> _Plan:
        ids, first = self._ids(model, row)

        def answer(results: list[Any]) -> Answer:
            scores: list[TokenScore] = results[0]
            return {
                "logprob": sum(each.logprob for each in scores),
                "is_greedy": int(all(each.top[0][0] == each.token for each in scores)),
                "scored_tokens": len(scores),
                "prompt_tokens": len(ids),
            }

        mode = model.checked_mode(self.settings.mode)
        return _Plan(ids, [lambda: scores_job(ids, first, 1)], answer, mode)

    def _ids(self, model: Model, row: Row) -> tuple[list[int], int]:
        ids = instance(Sequence, np.ndarray)
        continuation = _value(row, "continuation")
        if isinstance(continuation, str):
            context = "" if row.get("context") is None else _text(row, "context")
            return continuation_ids(model, context, continuation)
        before, after = ([*ids(_value(row, name), name)] for name in ("context", "continuation"))
        if not before or not after:
            raise ArgumentError("context, continuation: expected a token id or more in each")
        return scored_ids(model, [*before, *after]), len(before)

    def _answers(self, found: OpenedModel, rows: Sequence[Row]) -> list[Answer]:
        return _packed(found, rows, self._plan)


class Classifier(Worker):
    """Which of `choices` the model finds the likeliest continuation of the column "text", or of
    what `template` makes of it, as in "Review: {text}\\nRating:". Results: "label", "label_scores",
    the log probability of each choice, by `per_token` divided by its number of tokens, and
    "prompt_tokens".

    choices: the continuations, as in (" good", " bad"); labels: what to call them, by default
      the choices without spaces around them.
    """

    reads = ("text",)
    results: ClassVar[dict[str, Kind]] = {
        "label": "text",
        "label_scores": "vector",
        "prompt_tokens": "whole",
    }

    def __init__(
        self,
        model: str | None = None,
        *,
        choices: Iterable[str],
        labels: Iterable[str] | None = None,
        template: str = "{text}",
        per_token: bool = False,
        columns: Mapping[str, str | None] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(model, columns=columns, **settings)
        self.choices = several(text)(choices, "choices")
        given = [each.strip() for each in self.choices] if labels is None else labels
        self.labels = several(text)(given, "labels")
        self.template = text(template, "template")
        self.per_token = flag(per_token, "per_token")
        if not all(self.choices) or not self.choices or len(self.labels) != len(self.choices):
            raise ArgumentError("choices: expected one text or more, and as many labels")
        if _fields(self.template) != ("text",):
            raise ArgumentError("template: expected {text} and no other column")

    def _plan(self, model: Model, row: Row) -> _Plan:
        context = self.template.format(text=_text(row, "text"))
        tasks = [continuation_ids(model, context, choice) for choice in self.choices]

        def answer(results: list[Any]) -> Answer:
            sums = np.array([sum(each.logprob for each in scores) for scores in results])
            if self.per_token:
                sums /= [len(scores) for scores in results]
            return {
                "label": self.labels[int(sums.argmax())],
                "label_scores": sums.astype(np.float32),
                "prompt_tokens": sum(len(ids) for ids, _ in tasks),
            }

        jobs = [functools.partial(scores_job, ids, first) for ids, first in tasks]
        return _Plan(tasks[0][0], jobs, answer, model.checked_mode(self.settings.mode))

    def _answers(self, found: OpenedModel, rows: Sequence[Row]) -> list[Answer]:
        return _packed(found, rows, self._plan)
