"""DynamoDB: what is asked of a table and how, `adapter` on top; see [tool.importlinter] in pyproject.toml for who knows whom."""
