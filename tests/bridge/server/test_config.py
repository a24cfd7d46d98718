"""Sources of a server's settings, and their order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stemwire.bridge.server.config import ServerConfig, load_config, read_tokens
from stemwire.errors import ConfigError


def test_flags_override_the_environment_which_overrides_the_file(tmp_path: Path) -> None:
    file = tmp_path / "stemwire.toml"
    file.write_text('port = 1\nhost = "0.0.0.0"\ngrace = 5\n[effects]\nhall = "Reverb"\n')
    environment = {"STEMWIRE_PORT": "2", "STEMWIRE_ORIGINS": "https://a.example, https://b.example",
                   "STEMWIRE_GRACE": "6.5", "OTHER_PORT": "9"}  # fmt: skip
    found = load_config(file, {"port": 3, "idle": None}, environment)
    assert (found.port, found.host, found.grace) == (3, "0.0.0.0", 6.5)
    assert found.origins == ("https://a.example", "https://b.example")
    assert found.effects == {"hall": "Reverb"}
    assert found.idle == ServerConfig().idle
    assert load_config(file, {}, environment).port == 2


def test_it_listens_on_loopback_by_default() -> None:
    assert load_config(None, {}, {}).host == "127.0.0.1"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"port": 70_000}, "port is 70000; expected 0 to 65535"),
        ({"threads": -1}, "expected 0 or more"),
        ({"batch": 0}, "expected 1 or more"),
        ({"cert": "a.pem"}, "give --cert and --key"),
        ({"log": "xml"}, "expected 'text' or 'json'"),
        ({"presets": ()}, "give at least one"),
        ({"grace": float("nan")}, "grace is nan"),
    ],
)
def test_invalid_values(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ServerConfig(**fields)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("port = ", "expected TOML"),
        ("prot = 1", "prot is unknown; expected some of host, port"),
        ('port = "many"', "port is 'many'; expected int"),
        ("port = true", "true and false are not numbers"),
        ("effects = 3", "effects is 3"),
    ],
)
def test_invalid_files(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "stemwire.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_config(file, {}, {})
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none", {}, {})


def test_tokens(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("# for the studio\n  one-token  \n\nanother\n")
    assert read_tokens(file) == ("one-token", "another")
    assert ServerConfig(token_file=str(file), tokens=("given",)).all_tokens() == (
        "given", "one-token", "another",
    )  # fmt: skip
    file.write_text("# nothing\n")
    with pytest.raises(ConfigError, match="contains no token"):
        read_tokens(file)
    with pytest.raises(ConfigError, match="tokens cannot be read"):
        read_tokens(tmp_path / "none")
