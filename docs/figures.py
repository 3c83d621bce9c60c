"""Lets a wide figure scroll where the page is narrow, at a size that can be read."""

from __future__ import annotations

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx_gallery.directives import imgsgnode


class Strip(SphinxPostTransform):
    """Puts each figure into a strip of the page; ``custom.css`` lets that scroll."""

    default_priority = 900

    def run(self, **_: object) -> None:
        for kind in (nodes.image, imgsgnode):
            for image in list(self.document.findall(kind)):
                thumbnail = "/thumb/" in image["uri"]
                shown = image.parent if isinstance(image.parent, nodes.reference) else image
                if not thumbnail and isinstance(shown.parent, nodes.section | nodes.figure):
                    shown.replace_self(nodes.container("", shown.deepcopy(), classes=["strip"]))


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_post_transform(Strip)
    return {"parallel_read_safe": True}
