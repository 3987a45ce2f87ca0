"""Search in folders of images and in captions: an index of CLIP vectors that stays up to date.

update_index(INDEX, ImageFolder("photos"), scorer)          # again after every change: quick
index = open_index(INDEX)
hits = index.search(embed_query(parse_query("beach - people"), scorer), top_k=10)
"""

from clipguide.retrieval.build import UpdateReport, update_index
from clipguide.retrieval.index import Hit, Index, open_index
from clipguide.retrieval.manifest import Manifest, WrongModel
from clipguide.retrieval.published import IndexDamaged
from clipguide.retrieval.query import Term, embed_query, parse_query
from clipguide.retrieval.sources import CaptionFile, ImageFolder

__all__ = [
    "CaptionFile",
    "Hit",
    "ImageFolder",
    "Index",
    "IndexDamaged",
    "Manifest",
    "Term",
    "UpdateReport",
    "WrongModel",
    "embed_query",
    "open_index",
    "parse_query",
    "update_index",
]
