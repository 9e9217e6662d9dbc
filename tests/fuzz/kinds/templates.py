"""Chat templates."""

from __future__ import annotations

import json
from random import Random

from fuzz.kinds.spoiling import no_file, trying
from fuzz.mutation import as_json, odd_value, spoil_bytes, spoil_text
from fuzz.outcome import Trial
from fuzz.place import Place, replace

HOSTILE = (
    *("{{ lipsum(n=10**8) }}", "{{ 'a'.ljust(10**10) }}", "{{ 'a'.center(10**10) }}", "{{ 'a'.zfill(10**10) }}"),
    *("{{ '%1000000000s' % 'a' }}", "{{ '{:1000000000}'.format(1) }}", "{{ messages | tojson(indent=10**9) }}"),
    *("{{ [1] | batch(10**9, 0) | list | length }}", "{{ 'a'.translate({97: 'b' * 10**6}) * 10**4 }}"),
    *("{% set x = 'a' * 10**6 %}{% for i in range(10**6) %}{% set x = x ~ x %}{% endfor %}", "{{ 'a' * 10**10 }}"),
    *("{% filter upper %}{{ 'a' * 10**9 }}{% endfilter %}", "{{ ''.__class__.__mro__[1].__subclasses__() }}"),
    *("{{ cycler.__init__.__globals__.os.system('touch ran') }}", "{{ self._TemplateReference__context }}"),
    *("{{ messages.__class__ }}", "{{ raise_exception('no') }}", "{{ strftime_now('%Y' * 10**6) }}", "{{ 1 / 0 }}"),
    *("{% include 'x' %}", "{% extends messages %}", "{% import 'os' as os %}", "{{ range(10**12) | list }}"),
    *("{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}", "{{ 10 ** 10 ** 10 }}", "{{ (1, 2) * 10**9 }}"),
    *("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "{{ 2 ** 100000000 }}"),
    *("{{ 'x' | replace('', 'y' * 10**6) | replace('y', 'z' * 10**6) }}", "{{ ['a' * 10**6] * 10**5 | join }}"),
    *("{{ 'a' | indent(10**9) }}", "{{ 'a a' | wordwrap(0) }}", "{{ 'a' | center(10**10) }}", "{{ '%s' | format(1) }}"),
    *("{% set ns = namespace(a=1) %}{% set ns.a = ns %}{{ ns | tojson }}", "{{ messages | map('nope') | list }}"),
    *(
        "{{ messages | sort }}",
        "{{ {}['a'].b }}",
        "{{ undefined.x.y }}",
        "{% if %}",
        "{{",
        "{% raw %}",
        "{{ dict(a=1) | xmlattr }}",
    ),
    *(
        "{{ 'a'.encode('x') }}",
        "{{ 'é'.encode('ascii') }}",
        "{{ 'a'.split('') }}",
        "{{ 'ab'.rjust(10**10) }}",
        "{{ 5 | round(10**9) }}",
    ),
    *(
        "{{ 'a,' * 10**5 }}{{ ('a,' * 10**6).split(',') | length }}",
        "{{ 'a'.expandtabs(10**10) }}",
        "{{ '\t'.expandtabs(10**10) }}",
    ),
    *(
        "{{ ('a' * 10**5).replace('a', 'b' * 10**5) }}",
        "{{ ','.join(['a' * 10**6] * 10**4) }}",
        "{{ 10**9 | filesizeformat }}",
    ),
    *(
        "{{ range(9) | slice(10**9) | list }}",
        "{{ 'a' | urlize }}",
        "{{ messages | groupby('x') }}",
        "{{ 'a' | random }}",
    ),
)


def template(random: Random, place: Place) -> Trial:
    """A chat template that takes time or memory, reaches for Python, or is none."""
    folder = place.checkpoint("glm46v")
    path = folder / "chat_template.jinja"
    source, roll = path.read_text(), random.random()
    if roll < 0.05:
        no_file(random, path)
        return trying(random, folder)
    if roll < 0.5:
        at = random.choice((0, len(source), source.find("{%- for")))
        changed = source[:at] + random.choice(HOSTILE) + source[at:]
    elif roll < 0.6:
        changed = (
            "{% if " * 2000 if roll < 0.52 else "(" * 5000 if roll < 0.53 else "{{ " + "(" * 5000 + ")" * 5000 + " }}"
        )
    else:
        changed = spoil_text(random, source)
    if random.random() < 0.3:
        path.unlink()
        named = random.choice(
            (
                changed,
                [{"name": "default", "template": changed}],
                [{"name": "x"}],
                {"default": changed},
                odd_value(random),
            )
        )
        settings = json.loads((folder / "tokenizer_config.json").read_bytes()) | {"chat_template": named}
        replace(folder / "tokenizer_config.json", as_json(random, settings))
    else:
        replace(
            path, spoil_bytes(random, changed.encode()) if roll > 0.95 else changed.encode("utf-8", "surrogatepass")
        )
    return trying(random, folder)
