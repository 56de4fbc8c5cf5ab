"""What the engine runs on, as the gate and the harness read it, each with code of its own (R9)."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.util
import os
import py_compile
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.live import attestation, runtime
from engine.live.attestation import Refusal
from harness.base.errors import BundleError
from harness.bundle import installed
from harness.evidence.recorder import Unrecorded
from harness.evidence.shell import Shell


class Place:
    """An environment of two packages and an engine, which this process takes for its own."""

    def __init__(self, prefix: Path) -> None:
        self.prefix = prefix
        self.site = prefix / "lib/python3.11/site-packages"
        self.package = self.site / "engine"
        self.write("engine/__init__.py", "")
        self.write("alpha/__init__.py", "A = 1\n")
        self.write("alpha/_fast.so", "machine code")
        self.write("../../../bin/alpha", "#!/usr/bin/python3\n")
        self.write("zz.pth", "import alpha\n")
        installer = "alpha-1.0.dist-info/INSTALLER"
        self.record("alpha-1.0", "alpha/__init__.py", "alpha/_fast.so", "../../../bin/alpha", "zz.pth", installer)
        self.write(installer, "pip\n")
        self.record("hybrid_engine-0.1", "engine/__init__.py")
        (prefix / "bin/python").symlink_to(os.path.realpath(sys.executable))

    def write(self, name: str, text: str) -> Path:
        path = self.site / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def record(self, package: str, *names: str) -> None:
        own = f"{package}.dist-info/RECORD"
        self.write(own, "".join(f"{name},,\n" for name in (*names, own)))

    def describe(self) -> dict[str, object]:
        return runtime.describe(self.package)

    def refusal(self) -> str:
        with pytest.raises(Refusal) as refused:
            self.describe()
        assert refused.value.check == "runtime"
        return refused.value.reason


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    made = Place(tmp_path)
    monkeypatch.setattr(runtime, "_sites", lambda: [made.site])
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    stdlib = os.path.dirname(os.__file__)
    monkeypatch.setattr(sys, "path", [stdlib, f"{stdlib}/lib-dynload", str(made.site)])
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(tmp_path / "bin/alpha"), raising=False)
    return made


@pytest.mark.claim("R9", "V5")
def test_gate_and_harness_see_the_same(place: Place) -> None:
    seen = place.describe()
    assert seen == dataclasses.asdict(installed.runtime(Shell(Unrecorded()), place.prefix))
    assert {name: it["version"] for name, it in seen["packages"].items()} == {"alpha": "1.0", "hybrid_engine": "0.1"}  # type: ignore[attr-defined]


CHANGES: dict[str, Callable[[Place], object]] = {
    "source": lambda place: place.write("alpha/__init__.py", "A = 2\n"),
    "extension": lambda place: place.write("alpha/_fast.so", "other code"),
    "script": lambda place: place.write("../../../bin/alpha", "#!/bin/sh\n"),
    "path file": lambda place: place.write("zz.pth", "import beta\n"),
    "a package more": lambda place: (place.write("beta.py", ""), place.record("beta-1", "beta.py")),
    "another version": lambda place: (place.site / "alpha-1.0.dist-info").rename(place.site / "alpha-1.1.dist-info"),
}


@pytest.mark.slow
@pytest.mark.claim("R9")
@pytest.mark.parametrize("change", CHANGES)
def test_each_file_of_a_package_counts(place: Place, change: str) -> None:
    before = place.describe()
    CHANGES[change](place)
    try:
        assert place.describe() != before
    except Refusal:
        # A metadata directory of another name than its list says.
        assert change == "another version"
    else:
        assert place.describe() == dataclasses.asdict(installed.runtime(Shell(Unrecorded()), place.prefix))


@pytest.mark.claim("R9")
def test_what_differs_from_place_to_place_does_not_count(place: Place) -> None:
    before = place.describe()
    place.write("alpha-1.0.dist-info/INSTALLER", "uv\n")
    place.write("alpha/__pycache__/__init__.cpython-311.pyc", "")
    place.write("engine/trading/risk.py", "# A subject of its own.\n")
    assert place.describe() == before == dataclasses.asdict(installed.runtime(Shell(Unrecorded()), place.prefix))


STRAYS: dict[str, tuple[Callable[[Place], object], str]] = {
    "module": (lambda place: place.write("orders.py", ""), "orders.py"),
    "path file": (lambda place: place.write("evil.pth", ""), "evil.pth"),
    "sitecustomize": (lambda place: place.write("sitecustomize.py", ""), "sitecustomize.py"),
    "usercustomize": (lambda place: place.write("usercustomize.py", ""), "usercustomize.py"),
    "in a package": (lambda place: place.write("alpha/more.py", ""), "alpha/more.py"),
    "extension beside the source": (lambda place: place.write("alpha/__init__.so", ""), "alpha/__init__.so"),
    "sourceless module": (lambda place: place.write("orders.pyc", ""), "orders.pyc"),
    "in __pycache__": (lambda place: place.write("alpha/__pycache__/more.py", ""), "alpha/__pycache__/more.py"),
    "metadata": (lambda place: place.write("x-1.dist-info/entry_points.txt", ""), "x-1.dist-info/entry_points.txt"),
    "egg": (lambda place: place.write("x.egg-info/PKG-INFO", ""), "x.egg-info/PKG-INFO"),
    "link": (lambda place: (place.site / "link").symlink_to("/usr"), "link in"),
    "linked file": (lambda place: (place.site / "x.py").symlink_to("alpha/__init__.py"), "x.py in"),
    "pipe": (lambda place: os.mkfifo(place.site / "x.py"), "not a regular file"),
    "not UTF-8": (lambda place: (place.site / os.fsdecode(b"\xff.py")).write_text(""), "belongs to no"),
    "missing": (lambda place: (place.site / "alpha/_fast.so").unlink(), "_fast.so cannot be read"),
    "installed twice": (lambda place: place.record("alpha-2.0", "alpha/__init__.py"), "alpha is installed twice"),
    "outside": (lambda place: place.record("beta-1", "../../../../../etc/passwd"), "not a file of this environment"),
    "absolute": (lambda place: place.record("beta-1", "/etc/passwd"), "not a file of this environment"),
    "past the engine": (lambda place: (place.record("b-1", "engine/../b.py"), place.write("b.py", "")), "b.py"),
    "another place": (lambda _: sys.path.append("/tmp"), "'/tmp'"),
    "working directory": (lambda _: sys.path.insert(0, ""), "''"),
    "another script": (
        lambda place: setattr(sys.modules["__main__"], "__file__", str(place.write("../../../bin/x", ""))),
        "belongs to no installed package",
    ),
    "no name and version": (lambda place: place.write("x.dist-info/RECORD", ""), "is not the metadata of a package"),
    "no such place": (lambda place: place.site.rename(place.prefix / "gone"), "cannot be read"),
    "no script": (lambda _: setattr(sys.modules["__main__"], "__file__", None), "was started"),
}


@pytest.mark.claim("R9")
@pytest.mark.parametrize("stray", STRAYS)
def test_what_belongs_to_no_package_is_named(place: Place, stray: str) -> None:
    make, says = STRAYS[stray]
    make(place)
    assert says in place.refusal()


@pytest.mark.slow
@pytest.mark.claim("C9", "R9")
@given(st.binary(max_size=60) | st.text(max_size=40).map(str.encode))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_list_of_a_package_is_refused_in_words(place: Place, raw: bytes) -> None:
    (place.site / "alpha-1.0.dist-info/RECORD").write_bytes(raw)
    with contextlib.suppress(Refusal):
        place.describe()
    with contextlib.suppress(BundleError):
        installed.runtime(Shell(Unrecorded()), place.prefix)


@pytest.mark.claim("R9")
def test_bytecode_that_runs_already_must_be_what_the_source_says(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    source, other = place.site / "alpha/__init__.py", place.write("../../../other.py", "A = 9\n")
    spec = importlib.util.spec_from_file_location("alpha", source)
    assert spec is not None
    monkeypatch.setitem(sys.modules, "alpha", importlib.util.module_from_spec(spec))
    cached = Path(py_compile.compile(str(source)) or "")
    assert place.describe()["packages"]
    py_compile.compile(str(other), cfile=str(cached), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    assert "its bytecode in __pycache__" in place.refusal()
    monkeypatch.setitem(sys.modules, "alpha", None)
    gone = importlib.util.module_from_spec(spec)
    assert gone.__spec__ is not None
    gone.__spec__.origin = str(place.site / "alpha/gone.py")
    monkeypatch.setitem(sys.modules, "alpha", gone)
    assert "gone.py cannot be read" in place.refusal()


@pytest.mark.claim("R9")
def test_R9_bytecode_that_is_forgotten_is_not_run(tmp_path: Path) -> None:
    """In a Python of its own: a module whose bytecode says something else than its source."""
    source, other = tmp_path / "caps.py", tmp_path / "other.py"
    source.write_text("CAP = 1\n")
    other.write_text("CAP = 9\n")
    cached = str(tmp_path / "__pycache__" / f"caps.{sys.implementation.cache_tag}.pyc")
    py_compile.compile(str(other), cfile=cached, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    root = Path(__file__).resolve().parents[2]
    environ = {"PYTHONPATH": f"{root}:{tmp_path}"}
    said = {}
    for forget in ("pass", "runtime.forget_bytecode()"):
        code = f"from engine.live import runtime; {forget}; import caps; print(caps.CAP)"
        done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
        said[forget] = done.stdout.strip()
    assert said == {"pass": "9", "runtime.forget_bytecode()": "1"}


@pytest.mark.claim("R9")
def test_a_process_that_is_not_isolated_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "PRELOAD", tmp_path / "ld.so.preload")
    (reason,) = runtime.process_objections()
    assert "python -I" in reason
    for content, count in ((b"", 1), (b" \n", 1), (b"/tmp/evil.so\n", 2)):
        runtime.PRELOAD.write_bytes(content)
        assert len(list(runtime.process_objections())) == count
    runtime.PRELOAD.unlink()
    runtime.PRELOAD.mkdir()
    assert len(list(runtime.process_objections())) == 2


@pytest.mark.claim("R9")
def test_R9_the_interpreter_is_the_one_that_runs(place: Place) -> None:
    assert place.describe()["python"] == {
        "version": sys.version,
        "sha256": hashlib.sha256(Path(os.path.realpath(sys.executable)).read_bytes()).hexdigest(),
    }
    assert attestation.digest(place.describe()) == attestation.digest(place.describe())


@pytest.mark.claim("R9", "L1")
@pytest.mark.parametrize(
    ("count", "named"),
    [(1, "0.py"), (3, "0.py, 1.py, 2.py"), (4, "0.py, 1.py, 2.py and 1 more"), (9, "0.py, 1.py, 2.py and 6 more")],
)
def test_L1_of_many_strays_three_are_named(place: Place, count: int, named: str) -> None:
    for number in range(count):
        place.write(f"{number}.py", "")
    assert place.refusal() == f"{named} in {place.site}: belongs to no installed package"


@pytest.mark.claim("R9")
@pytest.mark.parametrize(
    ("path", "is_it"),
    [
        ("__pycache__/a.cpython-311.pyc", True),
        ("a/__pycache__/b.pyc", True),
        ("a/b.pyc", False),
        ("a.pyc", False),
        ("a__pycache__/b.pyc", False),
        ("__pycache__/a.py", False),
        ("__pycache__/a/b.pyc", False),
        ("__pycache__.pyc", False),
    ],
)
def test_R9_bytecode_lies_beside_its_source_and_nowhere_else(path: str, is_it: bool) -> None:
    assert runtime.is_bytecode(path) is is_it
