"""`sparsefire chat`, as its users run it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tiny_model
from sparsefire.lm.chat import ChatTemplate
from sparsefire.lm.model import Model

TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}<|end|>{% endfor %}"
    "assistant:"
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat")
    keys = {"tokenizer.chat_template": TEMPLATE}
    return tiny_model.write(folder / "a.gguf", keys=keys, context=1 << 15)


def chat(path: Path, said: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sparsefire", "chat", "-m", str(path), "--temp", "0"]
    return subprocess.run(
        [*command, "-n", "8", *arguments],
        input=said,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=120,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        check=False,
    )


def answers(path: Path, *turns: str, system: str | None = None) -> list[str]:
    """What the model says in turn."""
    messages = [{"role": "system", "content": system}] if system else []
    texts = []
    with Model.load(path, context=1 << 12) as model:
        for turn in turns:
            messages.append({"role": "user", "content": turn})
            answer = model.create_chat_completion(messages, 8, temperature=0)
            texts.append(answer["choices"][0]["message"]["content"])
            messages.append({"role": "assistant", "content": texts[-1]})
    return texts


def test_a_conversation(path: Path) -> None:
    done = chat(path, "ab\ncd\n/stats\n", "--system", "x y")
    assert (done.returncode, done.stderr) == (0, "")
    first, second = answers(path, "ab", "cd", system="x y")
    assert done.stdout.startswith(f"{first}\n{second}\n[")
    assert "prompt tokens; 8 new tokens at " in done.stdout


def test_commands(path: Path) -> None:
    said = "ab\n/reset\nab\n/system z\nab\n/help\n/fly\nab\\\n cd\n\n/quit\nnever said\n"
    done = chat(path, said)
    assert (done.returncode, done.stderr) == (0, "")
    (plain,) = answers(path, "ab")
    with_system, lines = answers(path, "ab", "ab\n cd", system="z")
    help_text = done.stdout.split("\n/reset", 1)[1].split("stops an answer.")[0]
    assert done.stdout.startswith(f"{plain}\n{plain}\n{with_system}\n/reset")
    assert "unknown command /fly" in done.stdout
    assert done.stdout.endswith(f"Ctrl-C stops an answer.\n{lines}\n")
    assert "/stats" in help_text


def test_models_without_a_template(tmp_path: Path) -> None:
    bare = tiny_model.write(tmp_path / "bare.gguf", context=512)
    done = chat(bare, "ab\n")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    for part in ("bare.gguf", "--template chatml", "sparsefire generate"):
        assert part in done.stderr
    assert chat(bare, "ab\n", "--template", "chatml").returncode == 0
    source = tmp_path / "template.txt"
    source.write_text(TEMPLATE, encoding="utf-8")
    done = chat(bare, "ab\n", "--template", str(source))
    (wanted,) = answers(
        tiny_model.write(
            tmp_path / "b.gguf", context=4096, keys={"tokenizer.chat_template": TEMPLATE}
        ),
        "ab",
    )
    assert done.stdout == f"{wanted}\n"
    assert chat(bare, "", "-n", "0").returncode == 2


def test_variables_of_the_template(path: Path, tmp_path: Path) -> None:
    source = tmp_path / "template.txt"
    source.write_text("{{ messages[-1].content }}{{ style }}", encoding="utf-8")
    options = ("--template", str(source), "--chat-template-kwargs")
    done = chat(path, "ab\n", *options, '{"style": "cd"}')
    with Model.load(path) as model:
        wanted = "".join(model.generate("abcd", 8, temperature=0))
    assert (done.stdout, done.stderr) == (f"{wanted}\n", "")
    for wrong in ("{", "[]", '{"messages": []}'):
        done = chat(path, "ab\n", *options, wrong)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "--chat-template-kwargs" in done.stderr


def test_a_full_context(path: Path) -> None:
    done = chat(path, "ab\n" + "x" * 60 + "\n/reset\nab\n", "--context", "40")
    (wanted,) = answers(path, "ab")
    lines = done.stdout.splitlines()
    assert done.returncode == 0
    assert lines[0] == lines[-1] == wanted
    assert "/reset starts over" in lines[1]


@pytest.mark.skipif(os.name == "nt", reason="Windows has other signals")
def test_interrupt_ends_the_answer_only(tmp_path: Path) -> None:
    keys = {"tokenizer.chat_template": TEMPLATE, "tokenizer.ggml.eos_token_id": None}
    path = tiny_model.write(tmp_path / "a.gguf", keys=keys, context=1 << 17, d=128, hidden=256)
    command = [sys.executable, "-m", "sparsefire", "chat", "-m", str(path), "--temp", "0"]
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:  # a program started by a background job would inherit that it ignores the signal
        process = subprocess.Popen(
            [*command, "--threads", "1", "--context", "100000"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    finally:
        signal.signal(signal.SIGINT, previous)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"ab\n")
    process.stdin.flush()
    assert process.stdout.read(3)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(b"/stats\n", timeout=60)
    assert process.returncode == 0
    assert errors == b""
    text = output.decode("utf-8", "replace")
    assert " \N{HORIZONTAL ELLIPSIS}\n[" in text
    assert "new tokens at" in text.splitlines()[-1]


def test_arguments_of_tool_calls_are_objects_for_templates() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": "ö"}'}}
    messages = [{"role": "user", "content": "w"}, {"role": "assistant", "tool_calls": [call]}]
    arguments = "messages[1].tool_calls[0].function.arguments"
    for source, wanted in (
        (f"{{{{ {arguments} | tojson }}}}", '{"a": "ö"}'),
        (f"{{% for k, v in {arguments} | items %}}{{{{ k }}}}={{{{ v }}}}{{% endfor %}}", "a=ö"),
        (f"{{{{ 'x' + {arguments} }}}}", 'x{"a": "ö"}'),
        ("{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}", "user:w;assistant:;"),
        ("{{ messages[1].content is defined }}", "False"),
        ("{{ 'x' + messages[1]['content'] + 'y' }}", "xy"),
    ):
        assert ChatTemplate(source).render(messages, False) == wanted
    for text in ("no JSON", "[1]", '"a"'):
        call["function"] = {"name": "f", "arguments": text}
        assert ChatTemplate(f"{{{{ {arguments} }}}}").render(messages, False) == text


def test_templates_that_take_contents_as_parts() -> None:
    source = (
        "{% for m in messages %}<{{ m['role'] }}>{% for part in m['content'] %}"
        "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
    )
    template = ChatTemplate(source)
    for content in ("What is 2+2?", [{"type": "text", "text": "What is 2+2?"}]):
        messages = [{"role": "user", "content": content}]
        assert template.render(messages, False) == "<user>What is 2+2?"
        named = ChatTemplate("{{ 'S:' + messages[0]['content'][0]['text'] }}")
        assert named.render(messages, False) == "S:What is 2+2?"
