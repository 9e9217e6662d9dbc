"""The process in which chat templates run: what it withstands, and that nobody has to know of it."""

from __future__ import annotations

import copy
import pickle
import resource
import subprocess
import sys
import textwrap
import time
import zipfile
from pathlib import Path

import pytest
from comparing import LONG

import mlx_mm
from mlx_mm.errors import ConfigError, InputError
from mlx_mm.processing import sandbox, template_process
from mlx_mm.processing.chat import ChatTemplate

pytestmark = [*LONG]

PACKAGE = Path(mlx_mm.__file__).parent
SAID = [{"role": "user", "content": "Hi"}]
PROC = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")


# What Jinja makes of a few characters: gigabytes, or a step that takes minutes
ENDLESS = {
    "lipsum": "{{ lipsum(n=10**8) }}",
    "slice": "{{ [1] | slice(10**9) | list }}",
    "round": "{{ (10**300) | round(-10**9) }}",
    "filter of a loop": "{% for i in range(99999) if range(99999) | list | length %}{% endfor %}",
    "compiled for long": "{{ " + "x." * 50000 + "x }}",
}
LARGE = {
    "ljust": "{{ 'a'.ljust(10**10) }}",
    "rjust": "{{ 'a'.rjust(10**9) }}",
    "center": "{{ 'a'.center(10**10) }}",
    "center filter": "{{ 'a' | center(10**9) }}",
    "zfill": "{{ '7'.zfill(10**10) }}",
    "%": "{{ '%1000000000s' % 'a' }}",
    "% number": "{{ '%.1000000000f' % 1.0 }}",
    "format filter": "{{ '%1000000000s' | format('a') }}",
    "format": "{{ '{:1000000000}'.format(1) }}",
    "nested format": "{{ '{:>{}}'.format(1, 10**9) }}",
    "tojson": "{{ [1] | tojson(indent=10**9) }}",
    "batch": "{{ [1] | batch(10**9, 'x') | list }}",
    "indent": "{{ 'a\nb' | indent(10**9) }}",
    "replace": "{{ ('a' * 10**6) | replace('a', 'b' * 10**6) }}",
    "replace method": "{{ ('a' * 10**6).replace('a', 'b' * 10**6) }}",
    "join": "{{ ''.join(['x' * 10**7] * 100) }}",
    "expandtabs": "{{ ('\t' * 10**3).expandtabs(10**9) }}",
    "map": "{{ range(99999) | map('string') | map('center', 10**9) | list }}",
}
EITHER = {
    "translate": "{{ ('a' * 10**6).translate({97: 'b' * 10**6}) }}",
    "set block": "{% set x %}{% for i in range(99999) %}{{ 'x' * 9999 }}{% endfor %}{% endset %}",
    "filter block": "{% filter upper %}{% for i in range(99999) %}{{ 'x' * 9999 }}{% endfor %}{% endfilter %}",
    "doubled": "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "added": "{% set n = namespace(x=[1]) %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "wordwrap": "{{ ('a ' * 10**6) | wordwrap(1, wrapstring='x' * 10**6) }}",
    "macro": "{% macro f(n) %}{{ f(n + 1) }}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "cycler": "{% set c = cycler('a') %}{% for a in range(99999) %}{% for b in range(99999) %}{{ c.next() }}"
    "{% endfor %}{% endfor %}",
    "joiner": "{% set j = joiner('x' * 10**7) %}{% for i in range(999) %}{{ j() }}{% endfor %}",
    "written": "{% for i in range(9999) %}{{ 'x' * 9999 }}{% endfor %}",
    "nested": "{{ " + "(" * 9999 + " }}",
    "long sum": "{{ " + "+".join(["1"] * 50000) + " }}",
    "blocks": "{% if 1 %}" * 20000 + "{% endif %}" * 20000,
}


LONG = r"it ran longer than 0\.1 seconds"
MUCH = "it needs more memory than it may have"


@pytest.mark.parametrize(
    ("source", "words", "seconds"),
    [
        *((source, LONG, 0.1) for source in ENDLESS.values()),
        *((source, MUCH, sandbox.MAX_SECONDS) for source in LARGE.values()),
        *((source, "", 0.1) for source in EITHER.values()),
    ],
    ids=[*ENDLESS, *LARGE, *EITHER],
)
def test_nothing_is_without_bounds(source: str, words: str, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with monkeypatch.context() as patch:
        patch.setattr(sandbox, "MAX_SECONDS", seconds)
        patch.setattr(template_process, "SECONDS_TO_STOP", 0.1)
        with pytest.raises(ConfigError, match=rf"^Template X (fails on|cannot be read).*{words}.*; expected .*\. Take"):
            ChatTemplate(source, name="Template X").render(SAID)
    assert time.monotonic() - start < 30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10  # KB, of this process
    assert ChatTemplate("{{ messages[0].content }}").render(SAID) == "Hi"


def test_a_template_that_is_a_book() -> None:
    with pytest.raises(ConfigError, match=r"has 1,048,577 characters; expected at most 1,048,576\. Take"):
        ChatTemplate("x" * (2**20 + 1))


def test_refusals_and_faults_say_what_they_said() -> None:
    with pytest.raises(InputError, match=r"^X refuses these messages: no\. Expected a chat .* Change the messages\.$"):
        ChatTemplate("{{ raise_exception('no') }}", name="X").render(SAID)
    with pytest.raises(ConfigError, match=r"^X cannot be read \(line 2: .*unknown tag 'nonsense'\.\); expected a"):
        ChatTemplate("\n{% nonsense %}", name="X")
    with pytest.raises(ConfigError, match=r"^X fails on these messages \('y' is undefined\); expected text\. Take"):
        ChatTemplate("{{ y.z }}", name="X").render(SAID)


def test_text_comes_back_as_it_is() -> None:
    text = "ä 猫 🙂\x00\r\n\x85\u2028"
    said = [{"role": "user", "content": text}]
    assert ChatTemplate("{{ messages[0].content }}").render(said) == text
    assert len(ChatTemplate("{{ '🙂' * 4000000 }}").render(SAID)) == 4_000_000


def test_copies() -> None:
    template = ChatTemplate("{{ bos_token }}{{ messages[0].content }}", tokens={"bos_token": "B"})
    for other in (copy.deepcopy(template), pickle.loads(pickle.dumps(template))):
        assert other.render(SAID) == "BHi"


# --- the life of the process ------------------------------------------------------------------------------------

HEAD = """
import os, signal, subprocess, sys, threading, time
from pathlib import Path
from mlx_mm.processing.template_process import render, start

def text(n=1):
    return render("{{ n + 1 }}", {"n": n}, name="X")

def children():
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == os.getpid() and state != "Z":
            found.append(int(path.parent.name))
    return found
"""


def run(
    code: str, *flags: str, folder: Path | None = None, path: Path = PACKAGE.parent
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *flags, "-c", HEAD + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=folder,
        env={"PYTHONPATH": str(path)},
    )


@PROC
def test_one_process_for_all(tmp_path: Path) -> None:
    """It knows nothing of open files, of Ctrl-C and of the folder that we are in, and nothing is left at the end."""
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong json')")
    code = """
    sys.path.remove("")
    kept = os.open(sys.executable, os.O_RDONLY)
    os.set_inheritable(kept, True)
    os.chdir({folder!r})
    start()
    assert text() == "2"
    (child,) = children()
    assert {{fd.name for fd in Path(f"/proc/{{child}}/fd").iterdir()}} == {{"0", "1", "2"}}
    assert os.readlink(f"/proc/{{child}}/cwd") == "/"
    assert os.getsid(child) == child

    results = []
    threads = [threading.Thread(target=lambda: results.extend(text(n) for n in range(50))) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert sorted(results) == sorted(str(n + 1) for n in range(50) for _ in range(8))
    assert children() == [child]

    if (forked := os.fork()) == 0:
        assert text(3) == "4" and len(children()) == 1 and children() != [child]
        os.execv(sys.executable, [sys.executable, "-c", ""])  # so that nothing runs at the end of this one
    assert os.waitpid(forked, 0)[1] == 0
    assert text(4) == "5" and children() == [child]

    os.kill(child, signal.SIGKILL)
    time.sleep(0.1)
    assert text(5) == "6"
    (other,) = children()
    assert other != child
    print(other, end="")
    """
    done = run(code.format(folder=str(tmp_path)), "-W", "error", "-X", "dev")
    assert (done.returncode, done.stderr) == (0, "")
    assert not Path(f"/proc/{done.stdout}").exists()


@PROC
def test_it_ends_with_us() -> None:
    """Also where we are killed while it works."""
    code = """
    text()
    threading.Thread(target=render, args=("{{ lipsum(n=10**8) }}", {}), kwargs={"name": "X"}, daemon=True).start()
    print(*children(), end="", flush=True)
    time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGKILL)
    """
    found = run("import mlx_mm.processing.sandbox as sandbox\nsandbox.MAX_SECONDS = 0.0\n" + textwrap.dedent(code))
    assert found.returncode == -9
    last = time.monotonic() + 30
    while Path(f"/proc/{found.stdout}").exists() and time.monotonic() < last:
        time.sleep(0.05)
    assert not Path(f"/proc/{found.stdout}").exists()


@PROC
def test_an_interrupted_wait_leaves_no_reply_for_the_next() -> None:
    code = """
    text()
    threading.Timer(0.3, signal.pthread_kill, [threading.main_thread().ident, signal.SIGINT]).start()
    try:
        render("{{ lipsum(n=10**8) }}", {}, name="X")
    except KeyboardInterrupt:
        print(text(), text(7))
    """
    assert run(code).stdout == "2 8\n"


@PROC
@pytest.mark.parametrize("executable", [None, "", "/opt/app/editor", "{folder}/python3"])
def test_where_no_python_can_be_started(executable: str | None, tmp_path: Path) -> None:
    """Templates run here, within the limits of the sandbox."""
    other = tmp_path / "python3"
    other.write_text("#!/bin/sh\necho nonsense that is no reply\n")
    other.chmod(0o755)
    name = executable and executable.format(folder=tmp_path)
    code = f"""
    sys.executable = {name!r}
    print(text(), text(), children())
    try:
        render("{{{{ 'x' * 10**12 }}}}", {{}}, name="X")
    except Exception as error:
        print(type(error).__name__)
    """
    assert run(code).stdout == "2 2 []\nConfigError\n"


@PROC
def test_from_an_archive(tmp_path: Path) -> None:
    archive = tmp_path / "app.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in (PACKAGE / "__init__.py", PACKAGE / "errors.py", *(PACKAGE / "processing").glob("*.py")):
            file.write(path, path.relative_to(PACKAGE.parent))
    done = run("import mlx_mm; print(text(), len(children()), mlx_mm.__file__)", folder=tmp_path, path=archive)
    assert done.stdout == f"2 1 {archive}/mlx_mm/__init__.py\n", done.stderr
