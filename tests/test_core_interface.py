"""The header, the extension, its type stub and the WebAssembly module say the same."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import make_enums
import make_grids
import sparsefire
from conftest import ROOT, missing
from sparsefire import errors
from sparsefire.core import enums
from sparsefire.core import wasm as _wasm
from sparsefire.core.core import EXCEPTIONS

INCLUDE = ROOT / "core_c" / "include"
HEADER = INCLUDE / "sparsefire.h"
POOL_HEADER = INCLUDE / "sparsefire_pool.h"
STUB = ROOT / "py" / "sparsefire" / "core" / "_native.pyi"


@dataclass(frozen=True)
class Function:
    """A function of the header: kinds of its parameters and of its result.

    Kinds: "pointer", "int32", "size", "float", "text", "void".
    """

    name: str
    result: str
    parameters: tuple[tuple[str, str], ...]  # name, kind


def kind_of(c_type: str) -> str:
    c_type = c_type.replace("const ", "").strip()
    if c_type.endswith("*"):
        return "pointer"
    return {"int32_t": "int32", "size_t": "size", "float": "float", "void": "void"}[c_type]


@cache
def header(path: Path = HEADER) -> dict[str, Function]:
    text = re.sub(r"/\*.*?\*/", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    functions = {}
    for match in re.finditer(r"SF_API\s+([^;(]*?)\b(sf_\w+)\(([^;]*)\);", text):
        result, name, parameters = match.groups()
        pairs = []
        for parameter in parameters.split(",") if parameters.strip() != "void" else []:
            parts = re.fullmatch(r"\s*(.*?)(\w+)\s*", parameter, re.DOTALL)
            assert parts is not None
            pairs.append((parts[2], kind_of(" ".join(parts[1].split()))))
        kind = "text" if "char" in result else kind_of(" ".join(result.split()))
        functions[name] = Function(name, kind, tuple(pairs))
    return functions


def native() -> Any:
    try:
        from sparsefire.core import _native
    except ImportError as error:
        missing(str(error))
    return _native


def wasm_exports(path: Path | None = None) -> dict[str, Any]:
    try:
        import wasmtime

        code = _wasm.module_bytes() if path is None else path.read_bytes()
        config = wasmtime.Config()
        config.wasm_threads = True
        module = wasmtime.Module(wasmtime.Engine(config), code)
    except (ImportError, errors.BackendError) as error:
        missing(str(error))
    return {e.name: e.type for e in module.exports if isinstance(e.type, wasmtime.FuncType)}


def test_the_header_was_understood() -> None:
    declared = HEADER.read_text(encoding="utf-8").count("\nSF_API ")
    assert len(header()) == declared > 40
    assert header()["sf_format_row_bytes"].result == "size"


def test_the_extension_has_every_function_and_no_other() -> None:
    found = {name for name in dir(native()) if not name.startswith("_")}
    assert found == set(header())


def test_the_extension_takes_the_headers_number_of_arguments() -> None:
    for name, function in header().items():
        with pytest.raises(TypeError, match=f"{name} takes {len(function.parameters)} arguments"):
            getattr(native(), name)(*range(len(function.parameters) + 1))


def check_exports(exports: dict[str, Any], functions: dict[str, Function]) -> None:
    assert {name for name in exports if name.startswith("sf_")} == set(functions)
    for name, function in functions.items():
        wanted = ["f32" if kind == "float" else "i32" for _, kind in function.parameters]
        assert [str(param) for param in exports[name].params] == wanted, name
        assert len(exports[name].results) == (function.result != "void"), name


def test_the_module_exports_every_function_with_the_headers_types() -> None:
    check_exports(wasm_exports(), header())


def test_a_module_with_threads_exports_the_functions_of_both_headers() -> None:
    path = Path(sparsefire.__file__).parent / "wasm" / "sparsefire_core_threads.wasm"
    if not path.exists():
        missing(f"{path} has not been built; scripts/build_wasm_modules.sh builds it")
    pool = header(POOL_HEADER)
    assert set(pool) == {"sf_pool_help", "sf_pool_helpers", "sf_pool_may_sleep"}
    check_exports(wasm_exports(path), header() | pool)


def test_unsigned_results_are_known() -> None:
    wanted = {name for name, f in header().items() if f.result in ("size", "pointer")}
    assert wanted == _wasm.UNSIGNED_RESULTS


def test_the_stub_agrees() -> None:
    results = {"int32": "int", "size": "int", "pointer": "int", "void": "int", "text": "str"}
    parameters = {"int32": "SupportsIndex", "size": "SupportsIndex", "float": "float"}
    found = {}
    for node in ast.parse(STUB.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = node
    assert set(found) == set(header())
    for name, function in header().items():
        returns = found[name].returns
        assert returns is not None
        assert ast.unparse(returns).removesuffix(" | None") == results[function.result], name
        arguments = found[name].args.posonlyargs
        assert [a.arg for a in arguments] == [p for p, _ in function.parameters], name
        for argument, (_, kind) in zip(arguments, function.parameters, strict=True):
            assert argument.annotation is not None
            text = ast.unparse(argument.annotation)
            assert text == parameters.get(kind, text), f"{name}: {argument.arg}"
            assert (text in ("_Pointer", "_Handle")) == (kind == "pointer"), (
                f"{name}: {argument.arg}"
            )


def test_every_status_has_an_exception() -> None:
    statuses = [status for status in enums.Status if status < 0]
    assert set(statuses) == set(EXCEPTIONS)
    assert len(set(EXCEPTIONS.values())) == len(statuses)


def test_the_enumerations_are_the_headers() -> None:
    text = HEADER.read_text(encoding="utf-8")
    made = make_enums.module(text)
    assert make_enums.MODULE.read_text(encoding="utf-8") == made, "run scripts/make_enums.py"
    enumerators = sum(map(len, make_enums.enums(text).values()))
    assert enumerators == len(set(re.findall(r"\b(SF_[A-Z0-9_a-z]+) =", text))) > 80


def test_the_grids_are_those_of_the_gguf_package() -> None:
    made = make_grids.header()
    assert make_grids.HEADER.read_text(encoding="utf-8") == made, "run scripts/make_grids.py"


def test_public_names_exist() -> None:
    for name in sparsefire.__all__:
        assert getattr(sparsefire, name) is not None
    assert set(sparsefire.__all__) <= set(dir(sparsefire))
    assert set(errors.__all__) <= set(sparsefire.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = sparsefire.nothing


def test_the_version_is_stated_once() -> None:
    match = re.search(r'#define SF_VERSION "([^"]+)"', HEADER.read_text(encoding="utf-8"))
    assert match is not None
    assert sparsefire.backend().version == match[1]
    assert sparsefire.__version__ == match[1]
    assert "version =" not in re.sub(
        r"\[tool.*", "", Path(ROOT / "pyproject.toml").read_text(encoding="utf-8"), flags=re.DOTALL
    )
