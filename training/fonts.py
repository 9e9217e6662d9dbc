"""The letters that the demo's contact sheet is drawn with: of each Noto font only the glyphs of the demo's queries.

Debian packages `fonts-noto-core` and `fonts-noto-cjk` give the fonts and their licence; `pip install fonttools`.
"""

import argparse
import json
import string
from pathlib import Path

from fontTools import subset
from fontTools.ttLib import TTFont

DOCUMENTATION = Path("usr/share/doc/fonts-noto-core/copyright")
# Name in the package -> (file of the Debian package, number of the font in it)
FONTS = {
    "NotoSans.ttf": ("truetype/noto/NotoSans-Regular.ttf", 0),
    "NotoSansArabic.ttf": ("truetype/noto/NotoSansArabic-Regular.ttf", 0),
    "NotoSansCJK.otf": ("opentype/noto/NotoSansCJK-Regular.ttc", 0),
}
PLAIN = string.digits + string.ascii_letters + string.punctuation + " "


def main() -> None:
    """Write the fonts and their licence."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("/"), help="where the Debian packages are unpacked")
    parser.add_argument("--out", type=Path, required=True, help="mlx_mm/bundled")
    args = parser.parse_args()
    plan = json.loads((args.out / "demo.json").read_text("utf-8"))
    wanted = set("".join(search["query"] for search in plan["searches"]))
    folder = args.out / "fonts"
    folder.mkdir(exist_ok=True)
    owners = []
    for name, (file, number) in FONTS.items():
        font = TTFont(args.root / "usr/share/fonts" / file, fontNumber=number)
        letters = {c for c in wanted if ord(c) in font.getBestCmap()}
        letters = letters | set(PLAIN) if name == "NotoSans.ttf" else {c for c in letters if ord(c) >= 0x250} | {" "}
        options = subset.Options(layout_features=["*"], hinting=False, name_IDs=[0, 1, 2, 13, 14], notdef_outline=True)
        owners.append(f"{name}: {font['name'].getDebugName(0)}")
        subsetter = subset.Subsetter(options)
        subsetter.populate(text="".join(letters))
        subsetter.subset(font)
        font.save(folder / name)
    licence = (args.root / DOCUMENTATION).read_text("utf-8")
    head = (
        "The fonts in this folder hold a few glyphs each of Noto Sans, Noto Sans Arabic and Noto Sans CJK, cut out by\n"
        "training/fonts.py from the files that Debian packages. Their licence is the SIL Open Font License 1.1, which\n"
        "stands below.\n\n"
    )
    text = licence[licence.rindex("License: OFL-1.1\n") :].split("License: GPL")[0].rstrip()
    text = "\n".join("" if line == " ." else line.removeprefix(" ") for line in text.splitlines())
    (folder / "LICENSE-OFL.txt").write_text(head + "\n".join(owners) + "\n\n" + text + "\n", "utf-8")


if __name__ == "__main__":
    main()
