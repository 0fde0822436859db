"""SSH addresses: what is accepted, what is refused with which remedy, and that reading and writing are inverse."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim2sky.deployment.ssh_address import SshAccess, SshAddress
from sim2sky.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "user", "host", "port", "path"),
    [
        ("ssh://pi@192.168.1.20/home/pi/controls", "pi", "192.168.1.20", None, "/home/pi/controls"),
        ("ssh://pi@raspberrypi.local:2222/~/controls", "pi", "raspberrypi.local", 2222, "/~/controls"),
        ("ssh://jetson@[fe80::1]:22/opt/x y", "jetson", "fe80::1", 22, "/opt/x y"),
        ("ssh://pi@nano//opt/x/", "pi", "nano", None, "/opt/x"),
    ],
)
def test_read(text: str, user: str, host: str, port: int | None, path: str) -> None:
    assert SshAddress.parse(text) == SshAddress(user, host, port, path)


@pytest.mark.parametrize(
    "text",
    [
        "ssh://pi@nano",
        "ssh://pi@nano/",
        "ssh://pi@nano/~",
        "ssh://nano/opt/x",
        "ssh://@nano/opt/x",
        "ssh://pi@/opt/x",
        "ssh://pi@nano:port/opt/x",
        "ssh://pi@nano:70000/opt/x",
        "ssh://pi@nano/opt/../etc",
        "ssh://pi@nano/opt/x?key=1",
        "ssh://pi@nano/opt/x#y",
        "ssh://-oProxyCommand=x@nano/opt/x",
        "ssh://pi@-nano/opt/x",
        "ssh://pi@nano/opt/\x07",
        "http://pi@nano/opt/x",
        "ssh://[::1/opt/x",
        "",
    ],
)
def test_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SshAddress.parse(text)
    assert "ssh://user@host[:port]/path" in caught.value.hint
    assert caught.value.exit_code == 2


def test_a_password_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        SshAddress.parse("ssh://pi:hunter2@nano/opt/x")
    assert "hunter2" not in str(caught.value)
    assert "ssh-copy-id pi@nano" in caught.value.hint


WORD = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=12)


@given(WORD, WORD, st.none() | st.integers(1, 65535), st.lists(WORD, min_size=1, max_size=4), st.booleans())
def test_written_and_read_again_it_is_the_same(
    user: str, host: str, port: int | None, parts: list[str], home: bool
) -> None:
    address = SshAddress(user, host, port, "/" + "/".join([*(["~"] if home else []), *parts]))
    assert SshAddress.parse(str(address)) == address


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_a_plain_error(text: str) -> None:
    for candidate in (text, f"ssh://{text}", f"ssh://pi@nano/{text}"):
        try:
            address = SshAddress.parse(candidate)
        except ConfigError:
            continue
        assert SshAddress.parse(str(address)) == address


def test_host_keys_named_by_the_user_take_the_place_of_the_usual_ones(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    usual = tmp_path / ".ssh" / "known_hosts"
    usual.parent.mkdir()
    usual.write_text("")
    mine = tmp_path / "mine"
    assert str(usual) in SshAccess().trusted()
    assert SshAccess(known_hosts=mine).trusted() == []  # not there: nothing is trusted, rather than everything
    mine.write_text("")
    assert SshAccess(known_hosts=mine).trusted() == [str(mine)]
