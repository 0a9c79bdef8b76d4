"""The C core and its hosts: native, wasmtime, Pyodide."""
