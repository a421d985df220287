"""Write the golden vectors again: ``python conformance/write.py``. They change only where a definition does."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import numpy as np

from lowbit.testing.golden import VERSION, all_vectors, digest

FOLDER = Path(__file__).parent


def main() -> None:
    """Write every file whose arrays or description changed, and remove those that nothing stands for any more."""
    written, kept, total = [], set(), 0
    for name, about, arrays in all_vectors():
        file = FOLDER / f"{name}.npz"
        kept.add(file)
        said = {"vectors": VERSION, "generator": "lowbit conformance/write.py", "digest": digest(arrays), **about}
        if not (file.exists() and said.items() <= stored(file).items()):
            said["lowbit"] = importlib.metadata.version("lowbit")
            file.parent.mkdir(exist_ok=True)
            np.savez_compressed(file, about=np.frombuffer(json.dumps(said).encode(), dtype=np.uint8), **arrays)  # type: ignore[arg-type]
            written.append(name)
        total += file.stat().st_size
    gone = [file for file in FOLDER.glob("*/*.npz") if file not in kept]
    for file in gone:
        file.unlink()
    print(f"{len(written)} of {len(kept)} files written, {len(gone)} removed; {total:,} bytes in all")


def stored(file: Path) -> dict[str, object]:
    """What a file says about itself."""
    with np.load(file) as arrays:
        return dict(json.loads(arrays["about"].tobytes()))


if __name__ == "__main__":
    main()
