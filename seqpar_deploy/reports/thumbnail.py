"""A small picture in a page."""

from __future__ import annotations

import base64
import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from seqpar_deploy.reports.markup import Html, tag

_LARGEST = 320  # pixels of the longer side: twice the size on the page, for screens with a high resolution


def thumbnail(picture: npt.NDArray[np.uint8] | None, name: str) -> Html:
    """A picture, uint8 (h, w, 3), embedded as JPEG. None is a box that says so."""
    if picture is None or picture.size == 0:
        return tag("div", "no picture", class_="nothing note")
    height, width = picture.shape[:2]
    image = Image.fromarray(picture)
    image.thumbnail((_LARGEST, _LARGEST))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=80)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return tag("img", src=f"data:image/jpeg;base64,{data}", alt=name, title=f"{width} x {height} pixels")
