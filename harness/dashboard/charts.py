"""What draws the charts of the page about the past: plotly's JavaScript, served from its package (contract W9).

The extra `charts` of hybrid-harness brings the package. Its Python is never imported: that would take longer to load,
and more memory, than the whole dashboard.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import importlib.util
import re
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE, FILE = "plotly", "package_data/plotly.min.js"

URL = "/charts/"
"""Below it the script is served, under a name that changes with its content, so that a browser may keep it for good."""

CHUNK_BYTES = 64 * 1024

_STYLE = re.compile(rb"""createElement\("style"\)[^;]{0,200};?[^;]{0,200}?textContent=('[^'\\]*'|"[^"\\]*")""")
"""Where the script makes a style sheet of a text of its own."""


@dataclass(frozen=True)
class ChartLibrary:
    """The script, as it is served."""

    url: str
    compressed: bytes
    """By gzip."""
    styles: str
    """For a page's `style-src`: the hashes of the style sheets that the script makes, and of no other. The empty one is
    filled by rules (CSSOM), which no policy minds."""

    async def plain(self) -> AsyncIterator[bytes]:
        """Yield the script uncompressed, piece by piece, for a client that takes nothing else."""
        inflating = zlib.decompressobj(wbits=31)
        for start in range(0, len(self.compressed), CHUNK_BYTES):
            yield inflating.decompress(self.compressed[start : start + CHUNK_BYTES])
        yield inflating.flush()


def load(package: str = PACKAGE) -> ChartLibrary | None:
    """Return the library; None where the package is not installed, or does not have the file. Takes a tenth of a
    second."""
    try:
        found = importlib.util.find_spec(package)
        places = list(found.submodule_search_locations or ()) if found is not None else []
        script = next((Path(place, FILE).read_bytes() for place in places if Path(place, FILE).is_file()), None)
    except (OSError, ImportError, ValueError):
        return None
    if script is None:
        return None
    texts = [b"", *(match[1][1:-1] for match in _STYLE.finditer(script))]
    hashes = (base64.b64encode(hashlib.sha256(text).digest()).decode() for text in texts)
    name = f"{PACKAGE}-{hashlib.sha256(script).hexdigest()[:16]}.js"
    return ChartLibrary(
        f"{URL}{name}", gzip.compress(script, 6, mtime=0), " ".join(f"'sha256-{one}'" for one in hashes)
    )
