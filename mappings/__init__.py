"""The mappings that migrator ships, one TOML file each; the format is described in README.md."""
