"""`sparsefire rerank`: sort documents by how well they answer a query."""

from __future__ import annotations

import argparse
from typing import Any

from ..errors import ArgumentError
from .common import add_mode_options, add_model_options, load_model, print_json, read_text


def add_rerank_parser(commands: Any) -> None:
    """Adds the subcommand."""
    parser = commands.add_parser(
        "rerank",
        help="sort documents by how well they answer a query",
        description="Scores documents with a reranker, and prints them, the best first, each after "
        "its score and a tab.",
    )
    parser.set_defaults(run=_rerank)
    add = parser.add_argument
    add("query", help="what the documents are to answer")
    add("document", nargs="*", help="a document")
    add("--documents", metavar="FILE", help="more of them, one a line; '-' reads standard input")
    add("--top-n", type=int, metavar="N", help="print only the best so many")
    add("--context", type=int, metavar="N", help="maximum number of tokens of a pair")
    add("--json", action="store_true", help="print one JSON object instead")
    add_model_options(parser)
    add_mode_options(parser)


def _rerank(arguments: argparse.Namespace) -> int:
    documents = list(arguments.document)
    if arguments.documents is not None:
        documents += read_text(arguments.documents).splitlines()
    if not documents:
        raise ArgumentError("name documents, or a file of them with --documents")
    with load_model(arguments, arguments.context) as model:
        found = model.create_rerank(
            arguments.query,
            documents,
            top_n=arguments.top_n,
            return_documents=True,
            mode=arguments.mode,
        )
    if arguments.json:
        print_json(found)
        return 0
    for each in found["results"]:
        print(f"{each['relevance_score']:.6g}\t{each['document']['text']}")
    return 0
