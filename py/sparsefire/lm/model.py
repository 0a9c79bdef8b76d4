"""Language models: load a GGUF file, generate text, look at logits, measure perplexity."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Literal, Unpack, overload

import numpy as np
import numpy.typing as npt

from .._arrays import FloatArray
from .._options import (
    DEFAULT_KV_FORMAT,
    HEADS,
    INPUTS,
    KV_FORMATS,
    checked,
    flag,
    function,
    instance,
    one_of,
    path,
    text,
    whole,
)
from ..core.core import Core
from ..core.handle import locked
from ..errors import ArgumentError, ContextFullError
from ..ffn.cache import NeuronCache
from ..gguf.source import Source
from ..text.tokenizer import Tokenizer
from ..weights.activation import ActivationType
from .chat import ChatTemplate
from .completion import ChatOptions, CompletionOptions, complete, complete_chat
from .completion_types import (
    ChatCompletion,
    ChatCompletionChunk,
    Completion,
    Embeddings,
    Ranking,
)
from .embedding import Pooling, Text, create_embedding, embed
from .evaluator import Evaluator
from .generation import (
    GenerateOptions,
    Generation,
    GenerationConfig,
    shows_options,
    takes_arguments_of,
)
from .opening import neuron_budget_of, open_model
from .ranking import Judge, create_rerank, rerank
from .run import Run
from .scoring import Perplexity, perplexity_of, windows_loss
from .sessions import Lease


class Model(Evaluator):
    """A language model in the core. `Model.load` creates one.

    Several threads may use a model. A call waits while another one evaluates tokens; generators
    take turns, a piece each, and every one gives the text that it would give alone. `stats` is of
    the run that began last, whichever thread began it; `Generation.stats` is of its own run.
    Up to 8 runs at the same time have a key/value cache each, as far as these are of 1 GiB; of more
    runs, one that goes on after others has its text evaluated again.

    A model stays on the core that was current when it was loaded.
    """

    @classmethod
    @checked(
        activation=ActivationType.of,
        context=whole,
        neuron_budget=neuron_budget_of,
        pre=text,
        mapped=flag,
        core=instance(Core),
        head=one_of(*HEADS),
        companion=path,
        k_format=one_of(*KV_FORMATS),
        v_format=one_of(*KV_FORMATS),
        inputs=one_of(*INPUTS),
    )
    def load(
        cls,
        source: Source | Sequence[Source] | None = None,
        *,
        activation: str | ActivationType | None = None,
        context: int | None = None,
        neuron_budget: int | NeuronCache | None = None,
        pre: str | None = None,
        mapped: bool = True,
        core: Core | None = None,
        head: str | None = None,
        companion: str | os.PathLike[str] | None = None,
        k_format: str | None = None,
        v_format: str | None = None,
        inputs: str | None = None,
    ) -> Model:
        """Loads a model from a GGUF file: a path, the file's bytes, or a seekable binary file.

        source: by default the model in the file that the environment variable SPARSEFIRE_MODEL
          names, else the one that comes with the package. A list of all files of a split model,
          where they do not have their usual names.
        activation: activation of the feed-forward layers, in place of the file's.
        context: context length in tokens, prompt included; at most (and by default, up to 4096)
          what the model was trained for.
        neuron_budget: how many bytes of the feed-forward layers' weights are resident at most, for
          a model that `sparsefire calibrate` wrote, or for the experts of a mixture as it was
          downloaded; the other weights stay in the file and are read when a token needs them.
          Results are the same, bit for bit, in exact and sparse mode; those of ReLU experts, whose
          down matrices are transposed in memory, within rounding. A `NeuronCache` instead of a
          number gives its other settings too, and with ``hot_fraction`` the same share of each
          layer. `neurons` reports what was read.
        pre: name of the pre-tokeniser of a byte-level BPE vocabulary, in place of the file's; for
          files that name none, or one that is not known here.
        mapped: whether the native core uses the weights of a path where the file is mapped into
          memory, shared with other processes. Otherwise they are read once, which takes time and
          memory of its own, and the file may change afterwards.
        core: by default the current one, see `use_backend`.
        head: "screened" computes only the most likely rows of the output matrix exactly, if the
          file, or its companion NAME.sparsefire.gguf, has a screen of it (see `calibrate_head`),
          and is the default; without a screen, and with "dense", all rows are computed. "proven"
          makes a copy of an output matrix in 8 bits or more, of 5 bits a weight, with which greedy
          decoding reads few rows of the matrix itself: those that may have the largest logit. The
          text is that of "dense". Where more is wanted than the largest logit (sampling, penalties,
          `logit_bias`, `logprobs`), all rows are computed.
        companion: the companion, where it has another name or place.
        k_format, v_format: formats in which sessions keep keys and values: "f16", the default;
          "f32", which takes twice the memory, and twice the time of attention to long texts; or
          "q8_0", which takes about half of "f16", and a little of the precision.
        inputs: "auto", the default, leaves out the smallest inputs of products when tokens are
          decoded in sparse mode, if the file or its companion has limits for them (see
          `calibrate_inputs`); the matrices are then in memory twice, in rows and in columns.
          "dense" does not, nor does a model with a ``neuron_budget``, or one in WebAssembly.

        A file that is changed in place while its mapped weights are in use, or its neurons are
        read, is noticed at the next evaluation, or while single tokens follow each other within a
        hundredth of a second: `ModelFileError`.

        Errors: `ModelFileError` (missing, damaged or incomplete; the message names the tensor or
        key), `UnsupportedError` (architecture, weight format or tokeniser), `NotFiniteError`,
        `CoreMemoryError`, `ArgumentError`.
        """
        opened = open_model(
            source,
            activation,
            context,
            neuron_budget,
            pre,
            mapped,
            core,
            head,
            companion,
            (k_format or DEFAULT_KV_FORMAT, v_format or DEFAULT_KV_FORMAT),
            inputs,
        )
        model = cls(opened.file, opened.config, opened.core_model, opened.context)
        if opened.tokenizer is not None:
            model.tokenizer = opened.tokenizer
        return model

    # -- text and tokens -------------------------------------------------------------------------

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokeniser of the file, created on first use."""
        return Tokenizer.from_metadata(self._file.metadata, self._file.name)

    @checked(add_bos=flag, special=flag)
    def tokenize(
        self, text: str, *, add_bos: bool | None = None, special: bool = True
    ) -> list[int]:
        """Token ids of a text; see `Tokenizer.encode`."""
        return self.tokenizer.encode(text, add_bos=add_bos, special=special)

    @checked(special=flag)
    def detokenize(self, ids: Sequence[int], *, special: bool = False) -> str:
        """The text of token ids; see `Tokenizer.decode`."""
        return self.tokenizer.decode(ids, special=special)

    @functools.cached_property
    def chat_template(self) -> ChatTemplate:
        """The chat template of the file; `UnsupportedError` if it has none."""
        return ChatTemplate.from_metadata(self._file.metadata, self._file.name)

    @functools.cached_property
    def judge(self) -> Judge:
        """What scores pairs of texts, with the classifier of the file; see `Judge`."""
        return Judge(self)

    @checked(add_generation_prompt=flag, chat_template=text)
    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        *,
        chat_template: str | None = None,
        **variables: Any,
    ) -> str:
        """The text of a conversation, as the model's own chat template writes it; see
        `ChatTemplate.render`. It may begin with the BOS token, of which `tokenize` adds no
        second one.

        chat_template: Jinja2 source to use instead of the file's, or "chatml".
        """
        if chat_template is None:
            template = self.chat_template
        else:
            template = ChatTemplate.from_metadata(
                self._file.metadata, self._file.name, template=chat_template
            )
        return template.render(messages, add_generation_prompt, **variables)

    # -- generation ------------------------------------------------------------------------------

    @shows_options
    def generate(
        self,
        prompt: str | Sequence[int],
        max_tokens: int | None = 64,
        **options: Unpack[GenerateOptions],
    ) -> Generator[str, None, None]:
        """Continues a prompt and yields the new text piece by piece, whole characters only.

        prompt: text, in which names of control tokens are parsed, or token ids. An empty prompt
          stands for the BOS token, which the model must have.
        max_tokens: limit of new tokens; None: as many as the context holds. Generation also ends
          at an end-of-text token, before a stop text, and when the context is full;
          `stats.finish_reason` says which.
        mode: "dense", "exact" or "sparse"; default `config.default_mode`.
        stop: one or several texts before which generation stops; the name of a control token stops
          it at that token.
        temperature, top_k, top_p, min_p, repeat_penalty, frequency_penalty, presence_penalty,
          logit_bias, seed: see `SamplerConfig`; a temperature of 0 is greedy.
        cancel: a `Cancel`, with which another thread can end the run, or a time limit. The thread
          that iterates closes the generator instead.
        context_shift: continues when the context is full: the older half of the text is dropped,
          except its first `keep` tokens (and the BOS token), and the rest is evaluated again at
          its new positions. That costs about as much as one more prompt token for each new token,
          in bursts of half a context, and the model forgets what was dropped.
        speculation: where the text repeats itself, what followed before is evaluated together with
          the next token, while that is found to be faster on this machine. The text is the same;
          `stats.drafted_tokens` and `accepted_tokens` count.

        The key/value cache is kept, so a prompt that shares a prefix with the last text is
        evaluated faster. After the run, complete or not, `stats` describes it.

        Errors: `ContextFullError` (the prompt does not fit), `ArgumentError`, `UnsupportedError`
        (mode), `NotFiniteError`. Errors in arguments are raised immediately.
        """
        return self.start(prompt, max_tokens, **options).texts()

    @shows_options
    def start(
        self,
        prompt: str | Sequence[int],
        max_tokens: int | None = 64,
        *,
        logprobs: int | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Generation:
        """As `generate`, but yields `Piece` objects and keeps statistics of its own. With
        `logprobs`, pieces carry the scores of their tokens and of that many of the most likely
        tokens in place of each."""
        run, ids = self.prepared(prompt, max_tokens, logprobs=logprobs, **options)
        self.stats = run.stats
        return Generation(self._sessions, run, ids)

    def prepared(
        self,
        prompt: str | Sequence[int],
        max_tokens: int | None = 64,
        *,
        logprobs: int | None = None,
        **options: Unpack[GenerateOptions],
    ) -> tuple[Run, list[int]]:
        """A run that evaluates nothing itself, for `Packing`, and its prompt's token ids. Arguments
        and errors as `start`."""
        self._check_predicts()
        config = GenerationConfig.of(max_tokens, logprobs, options)
        mode = self.checked_mode(options.get("mode"))
        self._checked_ids(list(config.sampler.logit_bias), "logit_bias")
        if config.context_shift and config.keep > self.context - 2:
            raise ArgumentError(
                f"keep: {config.keep} tokens leave no room in a context of {self.context}"
            )
        ids = self.prompt_ids(prompt)
        stats = self._new_stats(mode)
        stats.prompt_token_ids = list(ids)
        return Run(self.tokenizer, stats, config, self.context), ids

    def prompt_ids(self, prompt: str | Sequence[int]) -> list[int]:
        """The token ids that `generate` begins with. Errors as `generate`."""
        if isinstance(prompt, str):
            ids = self.tokenize(prompt)
        else:
            ids = self._checked_ids(prompt, "prompt").tolist()
        if not ids and self.tokenizer.bos is not None:
            ids = [self.tokenizer.bos]
        if not ids:
            raise ArgumentError("the prompt is empty, and the model has no BOS token")
        if len(ids) > self.context:
            raise ContextFullError(
                f"the prompt has {len(ids)} tokens but the context holds {self.context}; shorten "
                f"the prompt{self._larger_context()}"
            )
        return ids

    # -- answers as dictionaries, and vectors ----------------------------------------------------

    @overload
    def create_completion(
        self,
        prompt: Text | Sequence[Text],
        max_tokens: int | None = 16,
        *,
        stream: Literal[False] = False,
        **options: Unpack[CompletionOptions],
    ) -> Completion: ...

    @overload
    def create_completion(
        self,
        prompt: Text | Sequence[Text],
        max_tokens: int | None = 16,
        *,
        stream: Literal[True],
        **options: Unpack[CompletionOptions],
    ) -> Generator[Completion, None, None]: ...

    @takes_arguments_of(complete)
    def create_completion(
        self, *arguments: Any, **options: Any
    ) -> Completion | Generator[Completion, None, None]:
        """Continues one or several prompts and returns a dictionary in the shape of OpenAI's and
        llama-cpp-python's APIs; with `stream`, a generator of such dictionaries, each with the new
        `text`.

        n: choices per prompt; with a `seed`, the k-th uses seed + k.
        echo: the answer begins with the prompt.
        logprobs: reports the log probability of each token, with echo the prompt's too, and of
          that many of the most likely tokens.
        stream_options: {"include_usage": True} ends a stream with a chunk that holds `usage`.
        model: what the answer calls the model.

        Other arguments and errors as `generate`. Errors in arguments are raised immediately.
        """
        return complete(self, *arguments, **options)

    @overload
    def create_chat_completion(
        self,
        messages: Sequence[Mapping[str, Any]],
        max_tokens: int | None = None,
        *,
        stream: Literal[False] = False,
        **options: Unpack[ChatOptions],
    ) -> ChatCompletion: ...

    @overload
    def create_chat_completion(
        self,
        messages: Sequence[Mapping[str, Any]],
        max_tokens: int | None = None,
        *,
        stream: Literal[True],
        **options: Unpack[ChatOptions],
    ) -> Generator[ChatCompletionChunk, None, None]: ...

    @takes_arguments_of(complete_chat)
    def create_chat_completion(
        self, *arguments: Any, **options: Any
    ) -> ChatCompletion | Generator[ChatCompletionChunk, None, None]:
        """Answers a conversation; the counterpart of `create_completion`.

        messages: each {"role": "system" | "user" | "assistant", "content": …}, the latest last.
        logprobs, top_logprobs: whether to report the log probabilities of the answer's tokens, and
          of how many of the most likely tokens.
        chat_template: Jinja2 source to use instead of the file's, or "chatml".
        chat_template_kwargs: further variables of the template, such as
          {"enable_thinking": False}.

        Other arguments and errors as `create_completion` and `apply_chat_template`.
        """
        return complete_chat(self, *arguments, **options)

    def embed(
        self,
        text: Text | Sequence[Text],
        *,
        normalize: bool = True,
        pooling: Pooling | None = None,
        mode: str | None = None,
    ) -> FloatArray:
        """The embedding of a text, float32 (d,), or of several texts, (n, d): the hidden states
        after the final norm, pooled over the text's tokens. Encoders are made for this; a model
        that was trained only to predict text gives vectors of modest quality.

        text: a text, in which names of control tokens are plain text, or token ids.
        normalize: scales to length 1; a vector of zeros stays.
        pooling: "mean" of all tokens, or that of the first ("cls") or the "last" one; by default
          what the file says, or else the mean.

        The vectors of some encoders (EmbeddingGemma) go through further matrices of their file, and
        have the width of the last.

        Errors: `ContextFullError` (a text does not fit), `ArgumentError`, `NotFiniteError`.
        """
        return embed(self, text, normalize=normalize, pooling=pooling, mode=mode)

    def create_embedding(
        self,
        input: Text | Sequence[Text],  # noqa: A002  its name in OpenAI's interface
        *,
        model: str | None = None,
        normalize: bool = True,
        pooling: Pooling | None = None,
        mode: str | None = None,
    ) -> Embeddings:
        """Like `embed`, but returns a dictionary in the shape of OpenAI's and llama-cpp-python's
        APIs. model: the model's name in the answer."""
        return create_embedding(self, input, model, normalize=normalize, pooling=pooling, mode=mode)

    def rerank(
        self, query: str, documents: Sequence[str], *, mode: str | None = None
    ) -> FloatArray:
        """How well each document answers a query, float32 (n,): the larger, the better. The numbers
        are those of the model's classifier, of any sign; causal rerankers (Qwen 3) give the
        probability of "yes". A pair is put together as the file's prompt for it says, or else as
        the vocabulary joins two texts.

        Errors: `UnsupportedError` (the model is no reranker), `ContextFullError` (a pair does not
        fit), `ModelFileError`, `ArgumentError`, `NotFiniteError`.
        """
        return rerank(self, query, documents, mode=mode)

    def create_rerank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        model: str | None = None,
        top_n: int | None = None,
        return_documents: bool = False,
        mode: str | None = None,
    ) -> Ranking:
        """Like `rerank`, but returns a dictionary in the shape of Jina's and llama.cpp's
        /v1/rerank, the best document first. model: the model's name in the answer. top_n: only the
        best so many. return_documents: with the documents' texts."""
        return create_rerank(
            self,
            query,
            documents,
            model,
            top_n=top_n,
            return_documents=return_documents,
            mode=mode,
        )

    # -- perplexity -----------------------------------------------------------------------------

    @locked
    @checked(context=whole, mode=text, progress=function)
    def perplexity(
        self,
        text: str | npt.ArrayLike,
        context: int | None = None,
        *,
        mode: str | None = None,
        progress: Callable[[int, int, float], object] | None = None,
    ) -> Perplexity:
        """The perplexity of a text (or token ids), in consecutive windows of `context` tokens (by
        default `self.context`) that do not overlap and are evaluated independently. Every token of
        a window except the first is scored. A shorter window at the end counts too.

        In a text, names of control tokens are plain text. `progress` is called after each window
        with the tokens done, the total number of tokens, and the perplexity so far.

        Errors: `ArgumentError` (fewer than 2 tokens), otherwise as `logits`.
        """
        self._check_predicts()
        ids = (
            np.array(self.tokenize(text, special=False), np.int32)
            if isinstance(text, str)
            else self._checked_ids(text, "text")
        )
        if len(ids) < 2:
            raise ArgumentError(f"perplexity needs 2 tokens or more, the text has {len(ids)}")
        context = self.context if context is None else context
        if context < 2:
            raise ArgumentError(
                f"context: a window of {context} scores nothing, since its first token is not "
                "scored; give 2 or more"
            )
        if context > self.context:
            raise ArgumentError(
                f"context: {context} is outside 2 … {self.context}{self._larger_context()}"
            )
        mode = self.checked_mode(mode)
        with Lease(self._sessions) as lease:
            loss, scored, seconds = windows_loss(lease, ids, context, mode, progress)
        self._finish(lease, mode, seconds)
        return Perplexity(
            perplexity_of(loss, scored),
            loss / scored,
            scored,
            self.stats.active_share,
            self.stats.selected_share,
            self.stats.prompt_tokens_per_s,
            loss,
        )

    def __repr__(self) -> str:
        config = self.config
        return (
            f"<Model {config.name}: {config.architecture}, {config.layers} layers, d {config.d}, "
            f"{config.hidden} neurons a layer, {config.activation_name}, "
            f"{self._file.nbytes:,} bytes, {self.core!r}>"
        )
