"""One HTML page of many cards: pictures, styles and script inside, to be sorted and filtered by class."""

import base64
import math
from collections import Counter
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template

import cv2
import numpy as np

from datasets.seg.classes import ClassTable
from lib.base.names import printable
from lib.vis.cards import MARKS, Card

TEMPLATE = Path(__file__).with_name("gallery.html")
PAGE_BYTES = 24_000_000
"""What a page never exceeds: pictures are smaller where there are more."""
MOST_CARDS = 2000
"""On one page."""
SIDES = (1280, 1024, 768, 640, 480, 360, 256, 192, 128, 96)
"""Widths in pixels that a picture may be reduced to."""
QUALITIES = (88, 70, 50)
TEXT_BYTES = 1200
"""At most of a card's own words, but for its shares."""
SHARE_BYTES = 14
"""Of one share."""
FEW_PIXELS = 320
"""Wide: such pictures are enlarged pixel by pixel."""


@dataclass(frozen=True)
class PageCard:
    """A card whose picture has been packed."""

    card: Card
    packed: bytes
    size: tuple[int, int]

    @classmethod
    def of(cls, card: Card, budget: int) -> "PageCard":
        """Pack the picture as the largest JPEG of up to ``budget`` bytes; the card keeps none but that."""
        given = card.picture.shape[1]
        for side in (min(given, SIDES[0]), *(side for side in SIDES if side < given)):
            picture = cv2.cvtColor(_reduced(card.picture, side), cv2.COLOR_RGB2BGR)
            for quality in QUALITIES:
                packed = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
                if len(packed) <= budget:
                    break
            else:
                continue
            break
        without = Card(card.name, card.note, np.empty((0, 0, 3), np.uint8), card.shares, card.score, card.marks)
        return cls(without, packed, (picture.shape[1], picture.shape[0]))


def budget_of(cards: int, classes: int) -> int:
    """Bytes that the picture of each of so many cards may have, so that the page keeps to ``PAGE_BYTES``."""
    page = PAGE_BYTES - len(TEMPLATE.read_bytes()) - 1000 * (classes + 20)
    return max(2000, 3 * (page // cards - TEXT_BYTES - SHARE_BYTES * classes) // 4)


def page(title: str, cards: list[PageCard], table: ClassTable) -> str:
    """The page's HTML.

    Args:
        title: what it shows.
        cards: in order, ``MOST_CARDS`` at most.
        table: the classes.
    """
    images = Counter(train_id for one in cards for train_id in one.card.shares)
    marks = {mark for one in cards for mark in one.card.marks}
    chips = [
        f'<li><button type="button" value="{train_id}" aria-pressed="false">{_colour(table.palette[train_id])}'
        f"{_words(table.names[train_id])} <small>{images[train_id]}</small></button></li>"
        for train_id in sorted(images)
    ]
    chips += [
        f'<li><span><i><img alt="" src="{_png(MARKS[name])}"></i>{name}</span></li>' for name in MARKS if name in marks
    ]
    options = "".join(f'<option value="{train_id}">{_words(table.names[train_id])}</option>' for train_id in images)
    widest = max(one.size[0] for one in cards)
    has_scores = any(one.card.score is not None for one in cards)
    return Template(TEMPLATE.read_text()).substitute(
        title=_words(title),
        wide=f"{min(max(widest, 260), 480)}px",
        options=options,
        by_score='<option value="score">score</option>' if has_scores else "",
        count=f"{len(cards)} of {len(cards)}",
        legend="".join(chips),
        cards="\n".join(map(_figure, cards)),
    )


def _figure(one: PageCard) -> str:
    card, (width, height) = one.card, one.size
    shares = " ".join(f"{train_id}:{share:.2g}" for train_id, share in card.shares.items())
    score = "" if card.score is None else f' data-score="{card.score:.6f}"'
    pixels = ' class="pixels"' if width < FEW_PIXELS else ""
    name = _words(card.name)
    return (
        f'<figure data-name="{name}" data-shares="{shares}"{score}><button type="button">'
        f'<img{pixels} loading="lazy" decoding="async" width="{width}" height="{height}" alt="{name}" '
        f'src="data:image/jpeg;base64,{base64.b64encode(one.packed).decode()}"></button>'
        f"<figcaption>{name}<small>{_words(card.note)}</small></figcaption></figure>"
    )


def _reduced(picture: np.ndarray, width: int) -> np.ndarray:
    if width >= picture.shape[1]:
        return picture
    height = max(1, math.floor(len(picture) * width / picture.shape[1]))
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)


def _words(text: str) -> str:
    return escape(printable(text))


def _colour(colour: np.ndarray) -> str:
    return f'<i style="background: rgb({", ".join(map(str, colour.tolist()))})"></i>'


def _png(picture: np.ndarray) -> str:
    packed = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes()
    return f"data:image/png;base64,{base64.b64encode(packed).decode()}"
