"""The built-in target descriptions, one TOML file each."""
