"""`sparsefire batch`: map the rows of files."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from .._shown import shown
from ..errors import ArgumentError
from .common import (
    Progress,
    add_engine_options,
    add_head_option,
    add_host_options,
    add_mode_options,
    add_pre_option,
    add_sampling_options,
    add_template_variables,
    engine_options,
    print_report,
    sampling_options,
    template_variables,
)

if TYPE_CHECKING:
    from ..batch import JobReport, Worker

_TASKS = ("generate", "chat", "embed", "rerank", "score", "classify", "openai")


def add_batch_parser(commands: Any) -> None:
    """Adds the subcommand."""
    parser = commands.add_parser(
        "batch",
        help="generate, embed, rerank, score or classify the rows of files",
        description="Maps the rows of JSON lines or Parquet files, on this machine, on Ray or on "
        "Dask, and writes them with their results in parts to a folder. A row that fails has a "
        "message in its column error. The same command again computes the parts that are missing.",
    )
    parser.set_defaults(run=_batch)
    add = parser.add_argument
    add("-m", "--model", metavar="FILE", help="GGUF model or fsspec URL; default: the package's")
    add(
        "--input",
        required=True,
        action="append",
        metavar="PATTERN",
        help="files, such as 'in/*.parquet' or s3://bucket/rows.jsonl; may be repeated",
    )
    add("--output", required=True, metavar="FOLDER", help="where the parts go, a path or URL")
    add(
        "--task",
        choices=_TASKS,
        default="generate",
        help="what to do with a row: generate (continue the column prompt), chat (answer the "
        "column messages), embed (text), rerank (document, by query), score (continuation, after "
        "context), classify (text), openai (a line of OpenAI's batch files); default %(default)s",
    )
    add(
        "--template",
        metavar="TEXT",
        help="makes the prompt of other columns: 'Translate: {text}'",
    )
    add(
        "--column",
        action="append",
        default=[],
        metavar="NAME=OWN",
        help="another name of a column: prompt=question, generated_text=answer; 'NAME=' leaves a "
        "column of results out",
    )
    add("--format", choices=("jsonl", "parquet"), help="of the parts; default: the input's")
    add("--part-rows", type=int, metavar="N", help="rows of a part; default 1000")
    add("--force", action="store_true", help="replace the parts of a job with other settings")
    add("--json", action="store_true", help="print the statistics as one JSON object")
    _add_task_options(parser.add_argument_group("tasks"))
    _add_engine_options(parser.add_argument_group("engine"))
    add("--activation", metavar="NAME", help="activation function, overriding the file")
    add("--context", type=int, metavar="N", help="maximum number of tokens, prompt included")
    add_pre_option(parser)
    add_head_option(parser)
    add_host_options(parser)
    add_mode_options(parser)
    add_sampling_options(parser)


def _add_task_options(group: Any) -> None:
    add = group.add_argument
    add("-n", "--max-tokens", type=int, metavar="N", help="new tokens; default 64, of chats 256")
    add("--stop", action="append", default=[], metavar="TEXT", help="stop before this text")
    add("--system", metavar="TEXT", help="the system message of every chat")
    add("--chat-template", metavar="SOURCE", help="Jinja2 source, or chatml; default: the model's")
    add_template_variables(add)
    add("--pooling", choices=("mean", "cls", "last"), help="of embeddings; default: the file's")
    add("--choice", action="append", default=[], metavar="TEXT", help="a class, as it continues")


def _add_engine_options(group: Any) -> None:
    add = group.add_argument
    add_engine_options(add)
    add(
        "--sessions",
        type=int,
        metavar="N",
        help="rows that are decoded together; default: 8 in dense mode, if the model is larger "
        "than a processor's cache, or else 1",
    )


def _batch(arguments: argparse.Namespace) -> int:
    from ..batch import run_job

    with Progress() as show:
        report = run_job(
            _worker(arguments),
            arguments.input,
            arguments.output,
            format=arguments.format,
            **({} if arguments.part_rows is None else {"part_rows": arguments.part_rows}),
            **engine_options(arguments),
            force=arguments.force,
            progress=show,
        )
    return print_report(arguments, report, _summary)


def _worker(arguments: argparse.Namespace) -> Worker:
    from .. import batch

    names = (
        *("threads", "backend", "isa", "context", "mode", "activation", "pre", "sessions"),
        "head",
    )
    options = {name: getattr(arguments, name) for name in names}
    options["columns"] = _columns(arguments.column)
    task, template = arguments.task, arguments.template
    if task in ("generate", "chat"):
        options |= {"template": template, "stop": arguments.stop, **sampling_options(arguments)}
        if arguments.max_tokens is not None:
            options["max_tokens"] = arguments.max_tokens
        if task == "generate":
            return batch.Generator(arguments.model, **options)
        return batch.Chat(
            arguments.model,
            system=arguments.system,
            chat_template=arguments.chat_template,
            chat_template_kwargs=template_variables(arguments),
            **options,
        )
    if task == "classify":
        options["template"] = template or "{text}"
        return batch.Classifier(arguments.model, choices=arguments.choice, **options)
    if template is not None:
        raise ArgumentError(f"--template: not for --task {task}")
    if task == "embed":
        return batch.Embedder(arguments.model, pooling=arguments.pooling, **options)
    if task == "rerank":
        return batch.Reranker(arguments.model, **options)
    if task == "score":
        return batch.Scorer(arguments.model, **options)
    options["chat_template"] = arguments.chat_template
    return batch.OpenAILines(arguments.model, **options)


def _columns(given: list[str]) -> dict[str, str | None]:
    columns: dict[str, str | None] = {}
    for each in given:
        name, found, own = each.partition("=")
        if not found:
            raise ArgumentError(f"--column {each!r}: expected NAME=OWN")
        columns[name] = own or None
    return columns


def _summary(report: JobReport) -> str:
    done = report.rows - report.skipped_rows
    lines = [f"{done:,} rows, of which {report.failed:,} failed, in {report.parts:,} parts"]
    if report.first_error is not None:
        lines.append(f"the first error: {shown(' '.join(report.first_error.split()))}")
    if report.skipped_rows:
        lines.append(f"{report.skipped_rows:,} rows were there")
    lines.append(
        f"{report.prompt_tokens:,} prompt tokens, {report.completion_tokens:,} new tokens in "
        f"{report.seconds:.1f} s: {report.tokens_per_s:.0f} tokens/s, "
        f"{report.cpu_seconds:.1f} s of processor time"
    )
    return f"{report.output}: " + "; ".join(lines)
