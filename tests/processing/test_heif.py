"""HEIC, with pi-heif and without."""

from __future__ import annotations

import base64
import builtins
from typing import Any

import pytest
from PIL import Image

from mlx_mm.errors import MediaError
from mlx_mm.processing import heif
from mlx_mm.processing.glance import Glance
from mlx_mm.processing.image import open_image
from mlx_mm.processing.sources import PICTURE, Source, source_of

# 64x48 pixels, red and blue; written by pillow-heif 1.4
HEIC = base64.b85decode(
    "0000SW^{RQXk}?*00000ZE0pPXk}?*ZE0a<0005LZDn*}000000000XXk=`10000000000aA{+700000000000000000000G-+&a"
    "V*mgE07O6l0ssL300001;s5~v00000002J#0ssI200JQZ0RR9100000E&u=kIB98aW&i*H00062000$fZf0cy000000RRAKc4ILB"
    "0000LX>Mj^0ssI300IC2MR;ju000004sdC7Z2$lO00031008}IaB^?}007--aAR)(004Gqc4I>U18@KU0FVFx0000U@BsY%`1k+-"
    "4+CHT0RR|40Sp2E{{wIU00RJ!0009300RIXx&lC90096hLID8-Z~y=U0FVFx0{{R603M(qfd!W8<fgf}2xu@M00096AOHXZ03l)k"
    "0RRR>0l{;?i2wiq6Ju{|a&BX6cmM$a4FCp!0000KX>)L8000000000$0000$0000eV{Bn?0000$000010000m000010000000002"
    "|NsB+000020000GaA|mH000000|*ER0000OX>e^}0000000001009Mo0s{qv0000QX>w&|000000000EV`Ot<00IC3009610CjC-"
    "VRQfh06QoFuUO{v>c9WxYrp=Z{D;Z^|6l(kJy-8f^ZvPAT36dZp1w0zm0*dB6~A$hVOH37pK)_dji&f9AOHXW21R&jW&i+9O#mtY"
    "000O80Ra#I0ssI23IG5A8UO$Q0BKNYZ*FBEF*N`"
)


def test_a_phones_picture() -> None:
    pytest.importorskip("pi_heif")
    source, glance = source_of(HEIC, PICTURE), Glance()
    assert source is not None
    image = open_image(Source(source.name, source.open, glance=glance))
    assert image.size == (64, 48)
    red, blue = image.getpixel((8, 24)), image.getpixel((56, 24))
    assert red[0] > 180 > 80 > red[2]
    assert blue[2] > 180 > 80 > blue[0]
    assert (glance.width, glance.height, glance.taken.camera) == (64, 48, "iPhone 15")


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = builtins.__import__

    def lacking(name: str, *rest: Any) -> Any:
        if name == "pi_heif":
            raise ImportError(name)
        return kept(name, *rest)

    monkeypatch.setattr(builtins, "__import__", lacking)
    monkeypatch.setattr("mlx_mm.processing.decoding.can_read_heif", heif.can_read_heif.__wrapped__)
    Image.init()
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name != "HEIF"])
    with pytest.raises(MediaError, match=r"it is HEIC, which needs an extra: pip install 'mlx_mm\[heic\]'"):
        open_image(HEIC)
