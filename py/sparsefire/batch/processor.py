"""Processors of Ray Data with the arguments of `ray.data.llm`'s, on processors instead of GPUs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .._options import check_fields, flag, instance, one_of, positive, refuse, several, text
from ..errors import ArgumentError, SparsefireError
from .workers import Chat, Classifier, Embedder, Generator, Scorer, Worker

Rows = Callable[[dict[str, Any]], dict[str, Any]]

ERROR = "__inference_error__"  # the column of `ray.data.llm`


class InferenceError(SparsefireError):
    """A row failed in a processor that does not continue after errors."""


def _processes(value: Any, name: str) -> int | tuple[int, int]:
    """A number of at least 1, or two of which the second is not less."""
    if not isinstance(value, (tuple, list)):
        return positive(value, name)
    least, most = several(positive)(value, name) if len(value) == 2 else (1, 0)
    if most < least:
        refuse(value, name, "a number, or (least, most)")
    return least, most


@dataclass(frozen=True)
class ProcessorConfig:
    """A stage of a pipeline, for `build_processor`.

    model_source: a path, or an fsspec URL. None: the model of the package.
    task_type: "generate" answers the rows' `messages`, or, without `apply_chat_template`, continues
      their `prompt`, with their `sampling_params`, into `generated_text`; "embed" gives their
      `prompt` an `embedding`; "classify" gives it the `label` that is the likeliest of `choices`,
      one of the `worker_kwargs`; "score" gives their `continuation` after `context` a `logprob`.
    batch_size: rows of a call. concurrency: processes, a number or (least, most).
    threads: of each process, and what Ray reserves.
    should_continue_on_error: rows that fail keep their columns, pass by `postprocess` and have a
      message in `__inference_error__`, which is "" in others; otherwise the first one ends the
      pipeline, and there is no such column.
    worker_kwargs: further arguments of the task's worker (`Chat`, `Generator`, `Embedder`, …), such
      as `max_tokens`.
    """

    model_source: str | None = None
    task_type: Literal["generate", "embed", "classify", "score"] = "generate"
    apply_chat_template: bool = True
    batch_size: int = 32
    concurrency: int | tuple[int, int] = 1
    threads: int = 1
    should_continue_on_error: bool = False
    worker_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(
            self,
            model_source=text,
            task_type=one_of("generate", "embed", "classify", "score"),
            apply_chat_template=flag,
            batch_size=positive,
            concurrency=_processes,
            threads=positive,
            should_continue_on_error=flag,
            worker_kwargs=instance(Mapping),
        )

    def worker(self) -> Worker:
        """What maps the batches."""
        given = dict(self.worker_kwargs)
        if self.task_type == "classify" and "choices" not in given:
            raise ArgumentError("worker_kwargs: a classification needs choices")
        columns = {**instance(Mapping)(given.pop("columns", {}), "columns"), "error": ERROR}
        given |= {"threads": self.threads, "columns": columns}
        if self.task_type in ("embed", "classify"):
            columns.setdefault("text", "prompt")
            kind = Embedder if self.task_type == "embed" else Classifier
            return kind(self.model_source, **given)
        if self.task_type == "score":
            return Scorer(self.model_source, **given)
        text_kind = Chat if self.apply_chat_template else Generator
        return text_kind(self.model_source, **given)


class Stage:
    """The class that `map_batches` makes in each process: a worker, strict about errors if told."""

    def __init__(self, worker: Worker, strict: bool) -> None:
        self.worker, self.strict = worker, strict

    def __call__(self, batch: Any) -> Any:
        found = self.worker(batch)
        errors = found.column(ERROR)
        if not self.strict:
            place = found.schema.get_field_index(ERROR)
            return found.set_column(place, ERROR, errors.fill_null(""))
        if errors.null_count < len(errors):
            raise InferenceError(errors.drop_null()[0].as_py())
        return found.drop_columns([ERROR])


def _of_good_rows(postprocess: Rows, strict: bool, row: dict[str, Any]) -> dict[str, Any]:
    if strict:
        return postprocess(row)
    return row if row[ERROR] else {**postprocess(row), ERROR: ""}


def build_processor(
    config: ProcessorConfig,
    preprocess: Rows | None = None,
    postprocess: Rows | None = None,
    preprocess_map_kwargs: Mapping[str, Any] | None = None,
    postprocess_map_kwargs: Mapping[str, Any] | None = None,
) -> Callable[[Any], Any]:
    """A function from a `ray.data.Dataset` to one: `preprocess` makes what the task reads of a row,
    whose other columns are carried over, and `postprocess` makes the final row; the further
    arguments go to the `Dataset.map` of each. `ArgumentError`: options that the worker refuses."""
    strict, worker = not config.should_continue_on_error, config.worker()

    def process(dataset: Any) -> Any:
        if preprocess is not None:
            dataset = dataset.map(
                lambda row: {**row, **preprocess(row)}, **(preprocess_map_kwargs or {})
            )
        dataset = dataset.map_batches(
            Stage,
            fn_constructor_args=(worker, strict),
            batch_size=config.batch_size,
            batch_format="pyarrow",
            concurrency=config.concurrency,
            num_cpus=config.threads,
        )
        if postprocess is None:
            return dataset
        finish = functools.partial(_of_good_rows, postprocess, strict)
        return dataset.map(finish, **(postprocess_map_kwargs or {}))

    return process
