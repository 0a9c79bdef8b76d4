"""The browser page: building, serving, and its engine in the browser."""
