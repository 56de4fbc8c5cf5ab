"""What an operator says to relay and collector, and what is said of passwords (contract F6)."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from fleet.base.settings import ConfigError, load_collector, load_relay, read_secret
from harness.base.errors import Unavailable
from harness.observing import instances
from proofs.fixtures.bytecode import environ
from proofs.fixtures.fleet_parts import PASSWORD, ROOT, NatsServer, Postgres, Program, growing, toml, tool, wait

RELAY: dict[str, Any] = {"instance": "acct-1", "nats": {"servers": ["tls://nats.example:4222"]}}
COLLECTOR: dict[str, Any] = {"conninfo": "host=db dbname=hybrid user=collector", "nats": RELAY["nats"]}


@pytest.mark.claim("F6")
def test_what_nobody_says_has_a_default(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(toml(RELAY))
    (tmp_path / "c.toml").write_text(toml(COLLECTOR))
    relay = load_relay(tmp_path / "r.toml")
    assert (relay.instance, relay.nats.stream, relay.tick_every, relay.metrics_port) == ("acct-1", "HYBRID", 1, 9464)
    assert (relay.stream.replicas, relay.nats.password_file) == (1, None)
    assert load_collector(tmp_path / "c.toml").consumer == "collector"
    assert load_relay(ROOT / "config/relay.toml").instance == "default"
    with pytest.raises(ConfigError, match=r"collector.toml: password_file = .*CREDENTIALS_DIRECTORY"):
        load_collector(ROOT / "config/collector.toml")


@pytest.mark.claim("F6")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"instanze": "a"}, "instanze: unknown key; the nearest known one is instance"),
        ({"instance": "a.b"}, "instance = 'a.b': must be 1 to 64 letters, digits, _ and -"),
        ({"tick_every": -1}, "tick_every = -1: must be a whole number from 0 to 1000000"),
        ({"tick_every": True}, "tick_every = True: must be a whole number"),
        ({"poll_secs": 1e9}, "poll_secs = 1000000000.0: must be a number from 0.01 to 60"),
        ({"database": "bot.db"}, "database = 'bot.db': must be an absolute path"),
        ({"nats": {"servers": ["nats://u:secret@h:1"]}}, r"nats.servers = \(not shown\): must be a list"),
        ({"nats": {"servers": []}}, "nats.servers"),
        ({"nats": {"servers": ["tls://h:1"], "passwort": "x"}}, "nats.passwort: unknown key; the nearest known one is"),
        ({"nats": {}}, "nats.servers: is missing"),
        ({"nats": 5}, r"nats is to be a table, \[nats\]"),
        ({"stream": {"replicas": 9}}, "stream.replicas = 9: must be a whole number from 1 to 5"),
    ],
)
def test_what_cannot_be_meant_is_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    path = tmp_path / "relay.toml"
    path.write_text(toml({**RELAY, **change}))
    with pytest.raises(ConfigError, match=f"^{path}: {said}") as error:
        load_relay(path)
    assert "secret" not in str(error.value)


@pytest.mark.claim("O12", "F2")
@pytest.mark.parametrize("said", [{}, {"instance": "alpha"}, {"database": "/srv/bot.db"}])
def test_a_relay_of_an_engine_whose_configuration_is_broken_does_not_guess(
    tmp_path: Path, said: dict[str, str]
) -> None:
    """The engine runs on, on the one it began with; its rows would all come again, as another engine's."""
    (tmp_path / "config.toml").write_text("[app]\ninstance = 'alp")
    (tmp_path / "relay.toml").write_text(toml({**said, "nats": RELAY["nats"]}))
    with pytest.raises(
        ConfigError, match=rf"config\.toml: cannot be read, and {tmp_path}/relay\.toml does not say both"
    ):
        load_relay(tmp_path / "relay.toml")


@pytest.mark.claim("O12")
def test_a_relay_has_the_name_of_its_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instances, "CONFIGURATION", tmp_path)
    place, nameless = tmp_path / "alpha", {"nats": RELAY["nats"]}
    place.mkdir()
    database = Path("/var/lib/hybrid-engine/data/bot.db")
    for directory, engine, said, name in (
        (place, "", {}, "alpha"),
        (place, "[app]\ninstance = 'alpha'", {"instance": "alpha"}, "alpha"),
        (tmp_path, "", {}, "default"),
        (tmp_path, None, {}, "default"),
        (tmp_path, "x = [", {"instance": "acct-1", "database": str(database)}, "acct-1"),
        (tmp_path, "[app]\ninstance = 'acct-1'", {}, "acct-1"),
        (tmp_path, "", {"instance": "acct-1"}, "acct-1"),
    ):
        (directory / "config.toml").unlink(missing_ok=True)
        if engine is not None:
            (directory / "config.toml").write_text(engine)
        (directory / "relay.toml").write_text(toml({**said, **nameless}))
        found = load_relay(directory / "relay.toml")
        assert found.instance == name, (directory, engine, said)
        assert found.database == (Path("/var/lib/hybrid-engine-alpha/data/bot.db") if directory == place else database)
    for path, due in (("x/y.db", "/var/lib/hybrid-engine-alpha/x/y.db"), ("/srv/y.db", "/srv/y.db")):
        (place / "config.toml").write_text(toml({"app": {"db_path": path}}))
        (place / "relay.toml").write_text(toml(nameless))
        assert load_relay(place / "relay.toml").database == Path(due)
    (place / "relay.toml").write_text(toml({"instance": "beta", **nameless}))
    with pytest.raises(ConfigError, match=r"'beta': must be left out, or 'alpha', as .*/alpha/config.toml says"):
        load_relay(place / "relay.toml")


@pytest.mark.claim("F6")
@pytest.mark.parametrize("conninfo", ["host=db password=secret", "postgresql://u:secret@db/x", "passfile=/secret"])
def test_a_password_in_the_configuration_is_refused_and_not_shown(tmp_path: Path, conninfo: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(toml({**COLLECTOR, "conninfo": conninfo}))
    with pytest.raises(ConfigError, match="must be libpq's keywords") as error:
        load_collector(path)
    assert "secret" not in str(error.value)


@pytest.mark.slow
@pytest.mark.claim("F6")
@given(st.binary(max_size=200))
def test_no_bytes_are_more_than_a_configuration_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=str(path)):
        load_relay(path)


@pytest.mark.claim("F6")
def test_a_password_is_the_first_line_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("correct horse\r\nsecond\n")
    assert read_secret(path) == "correct horse"
    path.write_bytes(b"x" * 4096 + b"\nsecond")
    assert read_secret(path) == "x" * 4096
    for content, said in ((b"\n", "is empty"), (b"\xff", "is no text"), (b"x" * 4097, "is longer than 4096 bytes")):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=said):
            read_secret(path)
    with pytest.raises(ConfigError, match="No such file"):
        read_secret(tmp_path / "none")


@pytest.mark.slow
@pytest.mark.claim("F6")
@pytest.mark.parametrize("module", ["fleet.relay.command", "fleet.collector.command"])
def test_a_configuration_can_be_checked(tmp_path: Path, module: str) -> None:
    path = tmp_path / "x.toml"
    path.write_text(toml(RELAY if "relay" in module else COLLECTOR))
    argv = [sys.executable, "-m", module, "--config", str(path), "--check-config"]
    for status in (0, 12):
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, cwd=ROOT, env=environ())
        assert done.returncode == status, done.stderr
        path.write_text("x = [")
    assert done.stderr.endswith("x.toml: is no TOML (at end of document)\n")


@pytest.mark.slow
@pytest.mark.claim("F6")
@pytest.mark.programs
def test_tls_and_a_password_open_the_stream_and_nothing_shows_it(tmp_path: Path) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    issued = ca.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    place = tmp_path / "nats"
    place.mkdir()
    server = NatsServer(
        place,
        f'tls {{ cert_file: "{tmp_path}/cert.pem", key_file: "{tmp_path}/key.pem" }}\n'
        f'authorization {{ user: "relay", password: "{PASSWORD}" }}\n',
    )
    server.start()
    with growing(tmp_path / "bot.db", seed=1) as ledger:
        ledger.grow(10)
    password = tmp_path / "password"
    password.write_text(PASSWORD)
    config: dict[str, Any] = {
        "instance": "one", "database": str(tmp_path / "bot.db"), "metrics_port": 0, "poll_secs": 0.02,
        "stream": {"max_bytes": 1 << 26},
        "nats": {"servers": [f"tls://127.0.0.1:{server.port}"], "user": "relay", "password_file": str(password),
                 "ca": str(tmp_path / "ca.pem")},
    }  # fmt: skip
    relay = Program(tmp_path, "relay", config)
    relay.start()
    try:
        wait(
            lambda: (place / "jetstream").exists() and list((place / "jetstream").rglob("HYBRID/msgs/*.blk")),
            relay.said,
        )
        assert PASSWORD.encode() not in Path(f"/proc/{relay.pid}/cmdline").read_bytes()
        assert relay.end(signal.SIGTERM) == 0
        password.write_text("wrong")
        relay.start()
        assert relay.status() == 12
        assert "user 'relay' is refused: see nats.password_file" in relay.said
        Program(tmp_path, "relay", {**config, "nats": {**config["nats"], "ca": str(tmp_path / "other.pem")}})
        relay.start()
        assert relay.status() == 12
        assert "see nats.ca" in relay.said
        assert PASSWORD not in relay.said
    finally:
        relay.end()
        server.end()


@pytest.mark.slow
@pytest.mark.claim("F6")
def test_a_password_that_postgresql_refuses_is_12(postgres: Postgres, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("wrong")
    config: dict[str, Any] = {
        **COLLECTOR,
        "conninfo": postgres.make_database("refused"),
        "password_file": str(password),
        "metrics_port": 0,
    }
    collector = Program(tmp_path, "collector", config)
    collector.start()
    try:
        assert collector.status() == 12
    finally:
        collector.end()
    assert collector.said == "hybrid-collector: PostgreSQL refuses user or password: see conninfo and password_file\n"


def blocks(kind: str) -> list[str]:
    """The blocks of a kind in docs/fleet.md."""
    return re.findall(rf"^```{kind}\n(.*?)^```", (ROOT / "docs/fleet.md").read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.claim("F6")
def test_what_the_document_configures_can_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (text,) = blocks("toml")
    (tmp_path / "relay.toml").write_text(text)
    relay = load_relay(tmp_path / "relay.toml")
    assert (relay.instance, relay.nats.password_file) == ("acct-1", tmp_path / "nats-password")
    assert load_collector(ROOT / "config/collector.toml").password_file == tmp_path / "postgres-password"


@pytest.mark.slow
@pytest.mark.claim("F6")
@pytest.mark.programs
def test_a_relay_may_do_what_it_must_and_no_more(tmp_path: Path) -> None:
    """With the permissions of the document: as acct-1, and not as another."""
    place = tmp_path / "nats"
    place.mkdir()
    (text,) = [one for one in blocks("nats") if "authorization" in one]
    hashed = re.findall(r'password: "([^"]*)"', text)
    for one in hashed:
        text = text.replace(one, PASSWORD)
    server = NatsServer(place, text[text.index("authorization") :])
    server.start()
    with growing(tmp_path / "bot.db", seed=1) as ledger:
        ledger.grow(10)
    (tmp_path / "password").write_text(PASSWORD)
    user = {"user": "relay-acct-1", "password_file": str(tmp_path / "password")}
    config = {"instance": "acct-1", "database": str(tmp_path / "bot.db"), "metrics_port": 0, "poll_secs": 0.02,
              "stream": {"max_bytes": 1 << 26}, "nats": {"servers": [server.url], **user}}  # fmt: skip
    relay, other = Program(tmp_path, "relay", config), None
    relay.start()
    try:
        stored = place / "jetstream"
        wait(lambda: any(b"hybrid.acct-1.ticks" in one.read_bytes() for one in stored.rglob("msgs/*.blk")), relay.said)
        (tmp_path / "other").mkdir()
        other = Program(tmp_path / "other", "relay", {**config, "instance": "acct-2"})
        other.start()
        wait(lambda: "ermissions" in other.said, "another's subjects are refused")
        assert not any(b"hybrid.acct-2" in one.read_bytes() for one in stored.rglob("msgs/*.blk"))
    finally:
        relay.end()
        if other is not None:
            other.end()
        server.end()


def test_what_is_not_installed_leaves_a_proof_unproven() -> None:
    with pytest.raises(Unavailable, match=r"there is no nats-server-of-nobody \(make fleet-tools\)"):
        tool("nats-server-of-nobody")
