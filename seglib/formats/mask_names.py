"""Which file is the mask of which image by their names: x_mask of x, label_1 of image_1.

Names are those of files without the suffix of their format.
"""

import re
from collections.abc import Iterable

from ..files import folded

# What numbers the mask files of one image: _1, 2, (3) behind the image's name and the suffix.
_NUMBER = re.compile(r"(?P<suffix>.*?)(?P<number>[-_ ]?\d+| ?\(\d+\))")
# Words that may be joined to a number at the end of an image's name: 01mask.
_MASK_WORDS = ("mask", "seg", "label", "gt", "annot", "truth")
# Words by which the names of a volume and of its labels differ: image_1 with label_1. A longer word
# comes before those that it begins with.
_VOLUME_WORDS = ("image", "img", "volume", "vol", "scan")
_LABEL_WORDS = ("segmentation", "label", "mask", "seg", "gt")


def masks_among(names: Iterable[str]) -> set[str]:
    """The names in a folder that are those of masks, because their images lie beside them.

    A mask is called as its image with a word for masks behind it, or with such a word in place of
    one for images (`by_words`). Beside such pairs, other names with a word for masks count too.
    """
    names = list(dict.fromkeys(names))
    owners = Owners(names)
    image_of = {label: name for name, own in by_words(names, names).items() for label in own} | {
        name: image for name in names if (image := _image_of(name, owners))
    }
    if image_of:
        image_of |= {name: "" for name in names if names_labels(name) and name not in image_of}
    return set(image_of) - set(image_of.values())


def _image_of(name: str, owners: "Owners") -> str:
    """The image whose name goes on with a word for masks; "" for none. x_mask_1 is a mask of x."""
    image, rest = owners.of(name, whole=False)
    if image is None:
        return ""
    if not without_number(rest):
        return _image_of(image, owners)
    is_mask = names_labels(rest) or rest.lstrip("-_. ").lower().startswith(_MASK_WORDS)
    return image if is_mask else ""


def by_words(volumes: Iterable[str], labels: Iterable[str]) -> dict[str, list[str]]:
    """Name of a volume -> the names of its labels, where a word stands in place of another.

    Such as image_1 with label_1, img0001 with label0001, and case7_img with case7_gt. Volumes
    without labels are left out.

    Args:
        volumes, labels: names without `.nii.gz`; a name may be in both.
    """
    label_names: dict[tuple[str, str], list[str]] = {}
    for name in labels:
        for frame in _frames(name, _LABEL_WORDS):
            label_names.setdefault(frame, []).append(name)
    result = {}
    for name in volumes:
        frames = _frames(name, _VOLUME_WORDS)
        own = [label for frame in frames for label in label_names.get(frame, ())]
        if own:
            result[name] = own
    return result


def names_labels(name: str) -> bool:
    """Whether a word in the name of a file says that it holds labels."""
    return bool(_frames(name, _LABEL_WORDS))


def _frames(name: str, words: Iterable[str]) -> list[tuple[str, str]]:
    """What stands before and behind each of the words in a name: ("", "1") of image_1."""
    pattern = rf"(?<![a-z])(?:{'|'.join(words)})s?(?![a-z])"
    key = folded(name)
    return [
        (key[: match.start()].rstrip("-_. "), key[match.end() :].lstrip("-_. "))
        for match in re.finditer(pattern, key)
    ]


class Owners:
    """Finds the image to whose name the name of another file begins with."""

    def __init__(self, names: Iterable[str]):
        self.by_key: dict[str, list[str]] = {}
        for name in names:
            self.by_key.setdefault(folded(name), []).append(name)
        # What stands before a number at the end of the names.
        numbered = [re.fullmatch(r"(.+)[-_ ]\d+", key) for key in self.by_key]
        self.beginnings = {match[1] for match in numbered if match}

    def of(self, name: str, whole: bool = True) -> tuple[str | None, str]:
        """The image with the longest name, and what follows it in `name`; None where there is none.

        An image's name never ends inside a number or a word: 10 is no mask of image 1. `whole`: the
        image may have the very same name.
        """
        key = folded(name)
        for end in range(len(key) if whole else len(key) - 1, 0, -1):
            rest = key[end:]
            candidates = self.by_key.get(key[:end].rstrip(), ())
            if not candidates or not _is_boundary(key[end - 1], rest):
                continue
            if len(candidates) > 1:  # names that differ in case only
                candidates = [other for other in candidates if name.startswith(other)]
            if len(candidates) == 1:
                written = name[len(name) - len(rest) :]
                return candidates[0], (written if folded(written) == rest.strip() else rest).strip()
        return None, ""

    def numbered(self, name: str) -> bool:
        """Whether another image is called so with a number behind it."""
        return folded(name) in self.beginnings


def _is_boundary(last: str, rest: str) -> bool:
    """Whether neither a number nor a word goes on in `rest`, which follows the character `last`."""
    if not rest or not rest[0].isalnum():
        return True
    return last.isdigit() and rest.startswith(_MASK_WORDS)


def begins_with(name: str, beginning: str) -> bool:
    """Whether a name begins so, and no number or word goes on behind it."""
    return (
        bool(beginning)
        and name.startswith(beginning)
        and _is_boundary(beginning[-1], name[len(beginning) :])
    )


def without_number(suffix: str) -> str:
    """What follows an image's name in the name of its mask, without a number at the end."""
    match = _NUMBER.fullmatch(suffix)
    return match["suffix"] if match else suffix
