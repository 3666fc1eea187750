"""Images that ship with the package, and the preparation that most tests use."""

from pathlib import Path

import lit_od
from lit_od import Preparation

ASSETS = Path(lit_od.__file__).parent / "assets"
GREY = Preparation(size=(28, 28), mode="grey")
