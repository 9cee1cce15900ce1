"""The one table of the kinds of digits that are not MNIST's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal

import numpy as np

from digits.contract import Images
from digits.errors import KindMissing
from digits.kinds import corruptions, drawn
from digits.kinds.boxed import boxed
from digits.kinds.fonts import Face, faces_in, font_folders
from digits.mnist import LabelledImages

Group = Literal["corruptions", "drawn otherwise", "foreign", "pictures"]
Change = Callable[[Images, np.random.Generator], Images]

SEED: Final = 20190607  # every kind has a sequence of random numbers of its own, from this and its name


@dataclass(frozen=True)
class Made:
    """The digits of a kind, and, of fonts, the faces they are of."""

    digits: LabelledImages
    faces: tuple[Face, ...] = ()


@dataclass(frozen=True)
class Kind:
    """A row: digits that are not MNIST's, or no longer."""

    name: str
    group: Group
    about: str  # what it is, in a sentence
    source: str
    made: str  # how it comes to 28 by 28
    # Augmentations after which a model has been trained on something like it; "drawn digits" where it trained on such.
    resembles: tuple[str, ...]
    make: Callable[[LabelledImages, np.random.Generator, tuple[Path, ...]], Made]

    @property
    def needs_nothing(self) -> bool:
        """Whether it is made of MNIST's test images alone, so that a card can hold it wherever a model was trained.

        Pictures are made of them too; but what is read of them says as much of how they were found.
        """
        return self.group not in ("foreign", "pictures")

    def digits(self, test_images: LabelledImages, *, fonts: Sequence[Path] = ()) -> Made:
        """The kind's images: the same ones every time, fonts as they are installed.

        Args:
            test_images: MNIST's, of which most kinds are made; held-out training images where something is to be chosen.
            fonts: the folders to look into; those of the system without this.

        Raises:
            KindMissing: what it takes is not on this machine; the message says what to do.
        """
        random = np.random.default_rng([SEED, *self.name.encode()])
        return self.make(test_images, random, tuple(fonts) or font_folders())


def _changed(change: Change, base: LabelledImages, random: np.random.Generator, fonts: tuple[Path, ...]) -> Made:
    return Made(LabelledImages(images=change(base.images, random), labels=base.labels))


def _of_scikit_learn(base: LabelledImages, random: np.random.Generator, fonts: tuple[Path, ...]) -> Made:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise KindMissing("needs scikit-learn, whose package holds these digits: pip install scikit-learn") from error
    bunch = load_digits()
    images = np.array([boxed(picture) for picture in bunch.images])  # of [8, 8], from 0 to 16
    return Made(LabelledImages(images=images, labels=bunch.target.astype(np.uint8)))


def _of_fonts(handwritten: bool, base: LabelledImages, random: np.random.Generator, fonts: tuple[Path, ...]) -> Made:
    faces = tuple(face for face in faces_in(fonts) if face.handwritten == handwritten)
    if not faces:
        where = " or ".join(map(str, fonts))
        wanted = "handwriting" if handwritten else "print"
        raise KindMissing(f"needs fonts, and no face in {where} is of {wanted}; name a folder: --fonts")
    images = np.concatenate([face.images for face in faces])
    labels = np.tile(np.arange(10, dtype=np.uint8), len(faces))
    return Made(LabelledImages(images=images, labels=labels), faces)


def _of_pictures(draw: str, base: LabelledImages, random: np.random.Generator, fonts: tuple[Path, ...]) -> Made:
    from digits.kinds import pictures

    most = pictures.HUGE_PICTURES if draw == "huge" else pictures.PICTURES
    chosen = random.permutation(len(base.labels))[:most]
    images = pictures.found_again(getattr(pictures, draw), base.images[chosen], random)
    return Made(LabelledImages(images=images, labels=base.labels[chosen]))


def _of_printed_pictures(base: LabelledImages, random: np.random.Generator, fonts: tuple[Path, ...]) -> Made:
    from digits.kinds import pictures

    printed = _of_fonts(False, base, random, fonts)
    most = min(pictures.PICTURES, len(base.labels))  # of them as many as of handwriting
    chosen = random.permutation(len(printed.digits.labels))[:most]
    images = pictures.found_again(pictures.photographed, printed.digits.images[chosen], random)
    return Made(LabelledImages(images=images, labels=printed.digits.labels[chosen]), printed.faces)


MNIST_C: Final = "Mu and Gilmer 2019, MNIST-C, arXiv 1906.02337"
OURS: Final = "Samedigit"
TEST_IMAGES: Final = "MNIST's 10,000 test images, each changed once"


def _corruption(name: str, about: str, change: Change, *resembles: str) -> Kind:
    return Kind(name, "corruptions", about, MNIST_C, TEST_IMAGES, resembles, partial(_changed, change))


def _drawn(name: str, about: str, change: Change, *resembles: str) -> Kind:
    return Kind(name, "drawn otherwise", about, OURS, TEST_IMAGES, resembles, partial(_changed, change))


AGAIN: Final = "1,000 of MNIST's test images, each made a file, decoded, and the digit found in it"


def _picture(name: str, about: str, draw: str) -> Kind:
    made = AGAIN.replace("1,000", "200") if draw == "huge" else AGAIN
    return Kind(name, "pictures", about, OURS, made, (), partial(_of_pictures, draw))


BOXED: Final = "into a box of 20 by 20 pixels, keeping its shape, anti-aliased; its centre of mass in the middle"

KINDS: Final = (
    Kind(
        "scikit-learn",
        "foreign",
        "1,797 digits of 43 people, written on forms and kept as 8 by 8 pixels",
        "Alpaydin and Kaynak 1998, Optical Recognition of Handwritten Digits, UCI; the part in scikit-learn's package",
        BOXED,
        ("drawn digits",),
        _of_scikit_learn,
    ),
    Kind(
        "printed fonts",
        "foreign",
        "the ten digits of every upright face on this machine that is no handwriting",
        "the fonts of this machine",
        BOXED,
        ("drawn digits",),
        partial(_of_fonts, False),
    ),
    Kind(
        "handwriting fonts",
        "foreign",
        "the ten digits of every upright face on this machine that imitates handwriting",
        "the fonts of this machine",
        BOXED,
        ("drawn digits",),
        partial(_of_fonts, True),
    ),
    _drawn("thicker", "strokes wider by a pixel on each side", drawn.thicker, "thickness"),
    _drawn("thinner", "strokes narrower by half a pixel on each side", drawn.thinner, "thickness"),
    _drawn("moved", "moved by up to 3 pixels along each axis", drawn.moved, "affine"),
    _drawn("turned", "turned by up to 30 degrees", drawn.turned, "affine"),
    _drawn("smaller", "shrunk to between 0.6 and 0.8 of its size", drawn.smaller, "affine"),
    _drawn("partly hidden", "a square of 6 by 6 pixels of it missing", drawn.partly_hidden, "occlusion"),
    _drawn("dimmed", "every grey at 0.4 of what it was", drawn.dimmed, "contrast"),
    _corruption("shot noise", "as of 3 photons for a white pixel", corruptions.shot_noise, "noise"),
    _corruption(
        "impulse noise", "17 % of the pixels black or white at random", corruptions.impulse_noise, "impulses", "noise"
    ),
    _corruption("glass blur", "as through frosted glass", corruptions.glass_blur, "blur"),
    _corruption(
        "motion blur", "smeared in one direction over some 6 pixels", corruptions.motion_blur, "motion", "blur"
    ),
    _corruption("shear", "slanted by 0.4 radians to one side or the other", corruptions.shear, "affine"),
    _corruption("scale", "shrunk to 0.7 of its size", corruptions.scale, "affine"),
    _corruption("rotate", "turned by 0.4 radians to one side or the other", corruptions.rotate, "affine"),
    _corruption("brightness", "brighter by half the range, background and all", corruptions.brightness, "contrast"),
    _corruption("translate", "moved by 3 pixels along both axes", corruptions.translate, "affine"),
    _corruption("stripe", "its left and right quarter as in a negative", corruptions.stripe, "stripes"),
    _corruption("fog", "behind bright fog, with a quarter of its contrast", corruptions.fog, "fog", "contrast"),
    _corruption("spatter", "with spots of grey mud", corruptions.spatter, "blots", "occlusion"),
    _corruption("dotted line", "with a dotted line across", corruptions.dotted_line, "lines"),
    _corruption("zigzag", "with a zigzag line across", corruptions.zigzag, "lines"),
    _corruption("canny edges", "the edges alone, one pixel wide", corruptions.canny_edges, "outline"),
    _picture("pen on white", "a dark pen on white paper; PNG", "pen_on_white"),
    _picture("white on black", "chalk on a board; PNG of greys", "white_on_black"),
    _picture("coloured", "ink of one colour on paper of another, some equally bright; WebP", "coloured"),
    _picture(
        "photographed",
        "a page at a slant: light from one side, soft shadow, perspective, tilt, noise; JPEG",
        "photographed",
    ),
    _picture("in shadow", "the hard edge of a shadow across the page; JPEG", "in_shadow"),
    _picture("ruled paper", "on ruled or squared paper; JPEG", "ruled"),
    _picture("mouse strokes", "a thin line on a canvas without a background; PNG with alpha", "mouse"),
    _picture("compressed", "small, and compressed to where blocks show; JPEG", "compressed"),
    _picture("scanned", "a sheet on a larger scanner: dark beside the page, dust; TIFF", "scanned"),
    _picture("turned by EXIF", "stored as the sensor saw it, with a note how to turn it; JPEG", "turned_by_exif"),
    _picture("cropped", "cut out along its edges, so that it touches them; PNG", "cropped"),
    _picture("tiny", "twenty pixels high; GIF", "tiny"),
    _picture("huge", "a photograph of twelve megapixels; JPEG", "huge"),
    Kind(
        "photographed print",
        "pictures",
        "up to 1,000 digits of the upright printed faces on this machine, photographed as above",
        "the fonts of this machine",
        "each made a file, decoded, and the digit found in it",
        (),
        _of_printed_pictures,
    ),
)
