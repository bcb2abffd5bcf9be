"""Files of JSON and JSON Lines, `adapter` on top; see [tool.importlinter] in pyproject.toml for who knows whom."""
