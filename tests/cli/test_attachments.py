"""Images and videos that are named in a line of a chat."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlx_mm.cli.attachments import find_attachments


def test_attachments_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("cat.jpg", "my cat.PNG", "clip.mp4", "it's.webp", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    url = "https://example.org/a/b.png?size=2"
    cases = [
        ("What is in cat.jpg?", "What is in?", ["cat.jpg"], []),
        ('"my cat.PNG" what is it', "what is it", ["my cat.PNG"], []),
        ("'my cat.PNG'", "", ["my cat.PNG"], []),
        (r"my\ cat.PNG and cat.jpg, compare", "and, compare", ["my cat.PNG", "cat.jpg"], []),
        (f"{tmp_path}/cat.jpg what", "what", [f"{tmp_path}/cat.jpg"], []),
        (f"file://{tmp_path}/my%20cat.PNG what", "what", [f"{tmp_path}/my cat.PNG"], []),
        (f"see {url} please", "see please", [url], []),
        ("summarise clip.mp4.", "summarise.", [], ["clip.mp4"]),
        ("what's it's.webp", "what's", ["it's.webp"], []),
        ("dog.jpg is missing  here", "dog.jpg is missing  here", [], []),
        ('notes.txt stays, and "quotes" too, don\'t they', 'notes.txt stays, and "quotes" too, don\'t they', [], []),
        ("https://example.org/page", "https://example.org/page", [], []),
        ("x" * 5000 + ".jpg", "x" * 5000 + ".jpg", [], []),
    ]
    for line, text, images, videos in cases:
        found = find_attachments(line)
        assert (found[0], found[1].images, found[1].videos) == (text, images, videos)
    assert capsys.readouterr().err == ""
    assert find_attachments("/no/such.jpg what")[0] == "/no/such.jpg what"
    assert "no file /no/such.jpg" in capsys.readouterr().err
