"""The demo's page: one HTML file with pictures, sounds and answers in it, without a network and without scripts."""

import base64
import hashlib
import html
from pathlib import Path

import numpy as np

from mlx_mm import __version__
from mlx_mm.checkpoint import hub
from mlx_mm.checkpoint.atomic import check_file, new_file
from mlx_mm.cli.demo_run import Answer, Conversion, Demo, Hit, Search
from mlx_mm.cli.indexes import clock, shown_path
from mlx_mm.cli.output import visible
from mlx_mm.errors import OutputError
from mlx_mm.processing.audio import open_audio

TYPES = {".png": "image/png", ".flac": "audio/flac", ".ogg": "audio/ogg", ".wav": "audio/wav", ".mp3": "audio/mpeg"}
BARS, HEIGHT = 100, 40  # of the outline of a sound
RATE = 48_000  # Hz at which a sound is read for its outline
NAMES = {
    **{"ar": "Arabic", "de": "German", "en": "English", "es": "Spanish", "fr": "French", "hi": "Hindi"},
    **{"it": "Italian", "ja": "Japanese", "ko": "Korean", "nl": "Dutch", "pl": "Polish", "pt": "Portuguese"},
    **{"ru": "Russian", "tr": "Turkish", "zh": "Chinese"},
}


def check_page(path: Path) -> None:
    """OutputError where no page can be written, before work is done for it."""
    if path.suffix.lower() not in (".html", ".htm") or not path.resolve().parent.is_dir():
        raise OutputError(f"{path} cannot be the page; expected a .html file in a folder that exists. Choose one.")
    check_file(path)


def write_page(path: Path, result: Demo) -> None:
    """Write what a demonstration found. Raises OutputError."""
    with new_file(path) as new:
        new.write_text(page(result), "utf-8")


def page(result: Demo) -> str:
    """The whole page. Nothing in it that a model or a file says is taken as HTML."""
    style = Path(__file__).with_name("demo_page.css").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; media-src data:; style-src 'sha256-{digest}'"
    policy += "; base-uri 'none'; form-action 'none'"
    found = [f"{' = '.join(names)} ({kind})" for kind, groups in result["duplicates"].items() for names in groups]
    tags = ", ".join(f"{label} {count}" for label, count in result["tags"].items())
    index = shown_path(result["index"])
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>mlx_mm demo</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>Found, heard and answered on this machine</h1>
<p class="lead">{len(result["models"])} small models that ship with mlx_mm {text(__version__)} did all of this, offline,
in {result["seconds"]:.1f} s. They know little, and say how well a thing fits; they are demonstrations of the package,
which does the same for your photos and recordings with larger ones.</p>
<ul role="list" class="models">
{"".join(map(_model, result["models"]))}</ul>
</header>
<main>
<section aria-labelledby="pictures">
<h2 id="pictures">Pictures, by words</h2>
<p class="faint">{len(result["searches"])} searches of {result["pictures"]["files"]} files in many languages. The number
is the cosine between the words and the picture.</p>
<ul role="list" class="pictures">
{"".join(map(_picture, result["searches"]))}</ul>
</section>
<section aria-labelledby="sounds">
<h2 id="sounds">Sounds, by words</h2>
<p class="faint">{len(result["heard"])} searches of {result["sounds"]["new"]} sounds, which are heard in windows: the
part that fits best is marked.</p>
<ul role="list" class="sounds">
{"".join(map(_sound, result["heard"]))}</ul>
</section>
<section aria-labelledby="answers">
<h2 id="answers">Questions about pictures</h2>
<ul role="list" class="answers">
{"".join(map(_answer, result["answers"]))}</ul>
</section>
</main>
<footer>
<h2>And also</h2>
<p>Duplicates: {text(", ".join(found) or "none")}.<br>Tags: {text(tags)}.</p>
<h2>Go on</h2>
<pre><code>mlx_mm search "a dog" --index {text(index)}
mlx_mm index ~/Pictures ~/Music
mlx_mm chat</code></pre>
</footer>
</body>
</html>
"""


def text(value: str) -> str:
    """For HTML: without meaning there, and without controls and what turns the direction of writing."""
    return html.escape("\n".join(map(visible, value.split("\n"))))


def data_uri(file: Path) -> str:
    """A picture or a sound as an address that holds it."""
    return f"data:{TYPES[file.suffix]};base64,{base64.b64encode(file.read_bytes()).decode()}"


def _model(made: Conversion) -> str:
    return (
        f"<li><code>{text(made['model'])}</code><small>made for {text(made['knows'])}</small>"
        f"<small>{made['source_bytes'] / 1e6:.1f} MB → "
        f"<b>{made['bytes'] / 1e6:.1f} MB</b> at {made['bits']} bit, in {made['seconds']:.1f} s</small></li>\n"
    )


def _picture(search: Search) -> str:
    names = search["fitting"]
    images = "".join(_image(hub.BUNDLED / "pictures" / f"{name}.png") for name in names)
    several = " several" if len(names) > 1 else ""
    tile = f'<div class="tile{several}">{images or "nothing fits"}</div>'
    return f"<li{'' if names else ' class=none'}><figure>{tile}{_caption(search)}</figure></li>\n"


def _image(file: Path) -> str:
    return f'<img src="{data_uri(file)}" alt="{text(file.stem.replace("_", " "))}">'


def _sound(search: Search) -> str:
    if not search["fitting"]:
        return f'<li class=none><figure><div class="tile">nothing fits</div>{_caption(search)}</figure></li>\n'
    hit = search["hits"][0]
    [file] = (hub.BUNDLED / "sounds").glob(f"{hit['name']}.*")
    samples = open_audio(file, RATE)
    seconds = len(samples) / RATE
    marked = "" if hit["start"] is None or hit["stop"] is None else _mark(hit["start"], hit["stop"], seconds)
    moment = f"#t={hit['start']:g}" if hit["start"] else ""
    name = text(hit["name"].replace("_", " "))
    return (
        f'<li><figure><svg viewBox="0 0 {BARS} {HEIGHT}" preserveAspectRatio="none" aria-hidden="true">'
        f'{marked}<path d="{_outline(samples)}"/></svg>{_caption(search, f"{name}{_part(hit, seconds)}")}'
        f'<audio controls preload="metadata" src="{data_uri(file)}{moment}" aria-label="{name}"></audio>'
        "</figure></li>\n"
    )


def _part(hit: Hit, seconds: float) -> str:
    """Which part of a sound fits, where it is not all of it."""
    start, stop = hit["start"], hit["stop"]
    if start is None or stop is None or stop - start > 0.9 * seconds:
        return ""
    return f", {clock(start)} to {clock(min(stop, seconds))} of {clock(seconds)}"


def _mark(start: float, stop: float, seconds: float) -> str:
    """A rectangle behind the part that fits."""
    left, right = (BARS * min(moment / seconds, 1) for moment in (start, stop))
    if right - left > 0.9 * BARS:
        return ""
    return f'<rect x="{left:.1f}" y="0" width="{right - left:.1f}" height="{HEIGHT}"/>'


def _outline(samples: "np.ndarray") -> str:
    """The path of a sound's loudness: a bar for each part of it."""
    peaks = np.array([np.sqrt(np.mean(part**2)) if part.size else 0 for part in np.array_split(samples, BARS)])
    highest = max(float(peaks.max()), 1e-9)
    half = [max(0.4, float(peak) / highest * (HEIGHT / 2 - 4)) for peak in peaks]
    return "".join(f"M{x + 0.5} {HEIGHT / 2 - bar:.1f}v{2 * bar:.1f}" for x, bar in enumerate(half))


def _caption(search: Search, about: str = "") -> str:
    language = NAMES.get(search["language"], search["language"])
    fits = f", {search['hits'][0]['score']:.2f}" if search["fitting"] else ""
    return (
        f'<figcaption><span class="query" lang="{text(search["language"])}" dir="auto">{text(search["query"])}</span>'
        f"<small>{text(language)}{fits}</small>{f'<small>{about}</small>' if about else ''}</figcaption>"
    )


def _answer(answer: Answer) -> str:
    lang = text(answer["language"])
    return (
        f'<li><div class="tile">{_image(hub.BUNDLED / "pictures" / answer["picture"])}</div><div>'
        f'<span class="query" lang="{lang}" dir="auto">{text(answer["question"])}</span>'
        f'<p class="answer" lang="{lang}" dir="auto">{text(answer["answer"])}</p>'
        f"<small class=faint>{answer['seconds']:.2f} s</small></div></li>\n"
    )
