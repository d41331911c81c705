"""Where llamacli keeps its files. LLAMACLI_HOME puts all of them under one folder."""

from __future__ import annotations

import os
from pathlib import Path

#: In the data folder: what was typed in chats, for ↑ and Ctrl-R.
TYPED = "typed"


def cache() -> Path:
    """What can be made again. Not created here."""
    home = os.environ.get("LLAMACLI_HOME")
    if home:
        return Path(home) / "cache"
    import platformdirs

    return Path(platformdirs.user_cache_dir("llamacli", appauthor=False))


def data() -> Path:
    """What was fetched, or made by the user's work. Not created here."""
    home = os.environ.get("LLAMACLI_HOME")
    if home:
        return Path(home) / "data"
    import platformdirs

    return Path(platformdirs.user_data_dir("llamacli", appauthor=False))


def config() -> Path:
    """What the user writes: config.toml, models.toml. Not created here."""
    home = os.environ.get("LLAMACLI_HOME")
    if home:
        return Path(home) / "config"
    import platformdirs

    return Path(platformdirs.user_config_dir("llamacli", appauthor=False))
