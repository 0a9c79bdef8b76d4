"""Offline inference over many rows: on plain Python and Arrow, Ray Data and Dask.

from sparsefire.batch import Generator

generate = Generator(max_tokens=20, temperature=0)
generate([{"prompt": "The people of"}, {"prompt": "In the year"}])
"""

from .job import JobReport, read_parts, run_job
from .llm import LLM, CompletionOutput, EmbeddingRequestOutput, RequestOutput, SamplingParams
from .openai_lines import OpenAILines
from .settings import ModelSettings, close_models
from .workers import Chat, Classifier, Embedder, Generator, Reranker, Scorer, Worker

__all__ = [
    "LLM",
    "Chat",
    "Classifier",
    "CompletionOutput",
    "Embedder",
    "EmbeddingRequestOutput",
    "Generator",
    "JobReport",
    "ModelSettings",
    "OpenAILines",
    "RequestOutput",
    "Reranker",
    "SamplingParams",
    "Scorer",
    "Worker",
    "close_models",
    "read_parts",
    "run_job",
]
