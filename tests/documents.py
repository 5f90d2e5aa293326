"""The documents, and their snippets run."""

import re
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "docs"


def run_snippets(document, edit=str):
    """Run a document's Python in order, as one program; return its names."""
    names = {}
    for snippet in re.findall(r"```python\n(.*?)```", (FOLDER / document).read_text(), re.DOTALL):
        exec(compile(edit(snippet), f"docs/{document}", "exec"), names)
    return names
