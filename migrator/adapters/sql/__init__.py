"""SQL databases, SQLite first, `adapter` on top; see [tool.importlinter] in pyproject.toml for who knows whom."""
