"""Write the pages of docs/reproductions/ from the records there: pages, plots, the index.

python docs/make_reproductions.py             writes the pages of the records in the folder
python docs/make_reproductions.py FOLDER ...  first takes over the records of these folders
"""

from __future__ import annotations

import sys
from pathlib import Path

from embedworks.reproductions import ReproductionResult, write_pages

PAGES = Path(__file__).parent / "reproductions"


def main(folders: list[str]) -> None:
    """Take over records, each checked first, then write the pages."""
    for folder in folders:
        for path in sorted(Path(folder).glob("*.json")):
            result = ReproductionResult.load(path)
            result.save(PAGES / f"{result.slug}-{result.scale}.json")
    for path in write_pages(PAGES):
        print(path)


if __name__ == "__main__":
    main(sys.argv[1:])
