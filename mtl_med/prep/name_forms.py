"""What of a structure's name carries meaning: its letters and digits, the side, a margin, and a target's dose."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

__all__ = ["FRENCH_SIDES", "SIDES", "Margin", "Target", "margin_of", "normal_form", "parse_target", "split_side"]

_LEFT = "left links lks li lt l sinistra sinistro sin sx gauche gche izquierda izquierdo izq"
_RIGHT = "right rechts rts re rt r destra destro dex dx droite droit dte derecha derecho der"
SIDES = {"L": tuple(_LEFT.split()), "R": tuple(_RIGHT.split())}
"""TG-263's side -> the words for it. Only what equals a name of the table without one of them is a side."""

FRENCH_SIDES = {"L": (*SIDES["L"], "g"), "R": (*SIDES["R"], "d")}
"""`Poumon G`, `Poumon D`: single letters that are a side in French words alone, and elsewhere anything."""

_NO_SEPARATORS = str.maketrans("", "", " _-.,()/:\t")
_UNFOLDED = str.maketrans(
    {"ß": "ss", "æ": "ae", "Æ": "ae", "œ": "oe", "Œ": "oe", "ø": "o", "Ø": "o", "ł": "l", "Ł": "l"}
)
_MAX_MARGIN_MM = 20  # of a planning organ at risk volume; more than that is another number


def plain(text: str) -> str:
    """Letters without accents, spaces of one kind; what has no plain form stays."""
    if text.isascii():
        return text.strip(" \0")
    spread = unicodedata.normalize("NFKD", text.translate(_UNFOLDED))
    return "".join(letter for letter in spread if not unicodedata.combining(letter)).strip(" \0")


def normal_form(text: str) -> str:
    """Lower-case letters and digits of a name: `Femoral Head (Lt)` -> `femoralheadlt`.

    Empty where the name says more than its letters do. TG-263 marks a part of an organ by `~`, a volume of the user's
    own by `^`, a helper of the optimiser by a leading `_`, and other signs are sums or differences; letters of other
    scripts may stand for anything.
    """
    letters = plain(text)
    word = letters.translate(_NO_SEPARATORS)
    return word.lower() if word.isascii() and word.isalnum() and not letters.startswith("_") else ""


def split_side(form: str, sides: dict[str, tuple[str, ...]]) -> list[tuple[str, str]]:
    """All ways to take a word for a side from the start or the end of a normal form: what is left, and "L" or "R"."""
    found = []
    for side, words in sides.items():
        found += [(form.removeprefix(word), side) for word in words if form.startswith(word)]
        found += [(form.removesuffix(word), side) for word in words if form.endswith(word)]
    return [(rest, side) for rest, side in dict.fromkeys(found) if rest]


@dataclass(frozen=True)
class Margin:
    """A planning organ at risk volume.

    Args:
        organ: normal form of the organ's name.
        mm: the margin, if the name tells.
    """

    organ: str
    mm: int | None

    def name(self, organ: str) -> str:
        """TG-263's name for the margin around an organ: `OpticNrv_L` -> `OpticNrv_PRV03_L`.

        The margin has two digits, or one where only that keeps to the 16 characters that some systems allow.
        """
        root, side = (organ[:-2], organ[-2:]) if organ.endswith(("_L", "_R")) else (organ, "")
        if self.mm is None:
            return f"{root}_PRV{side}"
        long, short = f"{root}_PRV{self.mm:02d}{side}", f"{root}_PRV{self.mm}{side}"
        return short if len(short) <= 16 < len(long) else long


_MARGIN = re.compile(r"(?P<start>[a-z0-9]*?)(?:(?P<before>\d{1,2})mm)?prv(?P<after>\d{1,2})?(?:mm)?(?P<end>[a-z]*)")


def margin_of(original: str) -> Margin | None:
    """What a name like `Cord PRV 5mm`, `SpinalCord_PRV05` or `PRV Lens L` is a margin of."""
    found = _MARGIN.fullmatch(normal_form(original))
    if found is None or re.search(r"\d[.,]\d", original) or (found["before"] and found["after"]):
        return None
    number = found["before"] or found["after"]
    if number and not 0 < int(number) <= _MAX_MARGIN_MM:
        return None
    return Margin(found["start"] + found["end"], int(number) if number else None)


@dataclass(frozen=True)
class Target:
    """A target volume as its name tells.

    Args:
        name: TG-263's name for it, with the dose in cGy.
        prescription_gy: prescribed dose, Gy; None where the name has none.
    """

    name: str
    prescription_gy: float | None


_TARGET = re.compile(r"(?P<type>igtv|gtv|ctv|itv|ptv)(?P<rest>.*)")
_CROP = re.compile(r"(?<=\d{4})-(\d\d)$")
_PART = re.compile(
    r"(?P<number>\d+(?:\.\d{1,2}|p\d{1,2}|,\d)?)(?:[ _]*(?P<unit>c?gy)(?![a-z]))?|(?P<word>[a-z]+)|[ _()-]"
)
_CLASSES = ("p", "n", "sb", "par", "v", "vas")  # TG-263: primary, nodal, surgical bed, parenchyma, thrombosis, vessel
_LEVELS = {"high": "High", "mid": "Mid", "low": "Low"}


def parse_target(original: str) -> Target | None:
    """A target whose whole name is understood: type, class, number, side, level and dose, each at most once.

    A number with a unit is a dose. A bare one is a dose in Gy from 20 to 99 (`PTV70`, `PTV_50p4`) or in cGy with four
    digits that are no year (`PTV_7000`), a count below 20 (`PTV1`), and otherwise makes the name one that is not
    understood, as any other word does (`PTV_ring`). `-05` after a dose in cGy is TG-263's mark of a volume cropped by
    5 mm at the skin.
    """
    found = _TARGET.fullmatch(plain(original).lower())
    if found is None:
        return None
    crop = _CROP.search(found["rest"])
    rest = found["rest"][: crop.start()] if crop else found["rest"]
    parts: dict[str, str | float] = {}
    at = 0
    while at < len(rest):
        part = _PART.match(rest, at)
        if part is None or not _take(part, parts):
            return None
        at = part.end()
    return _target(found["type"], parts, crop[0] if crop else "")


def _take(part: re.Match[str], parts: dict[str, str | float]) -> bool:
    """Put a part of a target's name where it belongs; whether that could be done."""
    key: str
    value: str | float
    if part["number"]:
        key, value = _number(part["number"], part["unit"] or "")
    elif part["word"]:
        key, value = _word(part["word"])
    else:
        return True
    if not key or key in parts:
        return False
    parts[key] = value
    return True


def _number(text: str, unit: str) -> tuple[str, str | float]:
    value = float(text.replace("p", ".").replace(",", "."))
    whole = text.isdecimal()
    if unit:
        gray = value / 100 if unit == "cgy" else value
        return ("dose", gray) if 0 < gray <= 150 else ("", "")
    if whole and len(text) == 4 and value >= 1000 and not (1900 <= value < 2100 and value != 2000):
        return "dose", value / 100
    if 20 <= value < 100:
        return "dose", value
    return ("count", str(int(text))) if whole and 0 < value < 20 else ("", "")


def _word(word: str) -> tuple[str, str]:
    if word in _CLASSES:
        return "class", word
    if word in _LEVELS:
        return "level", _LEVELS[word]
    side = next((side for side, words in SIDES.items() if word in words), "")
    return ("side", side) if side else ("", "")


def _target(kind: str, parts: dict[str, str | float], crop: str) -> Target:
    dose = parts.get("dose")
    words = [f"{kind.upper()}{parts.get('class', '')}{parts.get('count', '')}"]
    words += [str(parts[key]) for key in ("level", "side") if key in parts]
    if dose is None:
        return Target("_".join(words), None)
    return Target("_".join([*words, f"{round(100 * float(dose))}"]) + crop, round(float(dose), 4))
