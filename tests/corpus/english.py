"""English prose, out of what two libraries say about themselves: data sets of flowers and faces, statistics, optics."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache

from pretrained import fetch_wheel

_PLAIN = re.compile(r"""[A-Z][A-Za-z0-9 ,;:'"()/&!?-]*[.!?]""")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")


@cache
def sentences() -> tuple[str, ...]:
    """Plain sentences of 8 to 40 words, no two alike, in the order of the files that they stand in."""
    found = (
        sentence
        for paragraph in _paragraphs()
        for sentence in _SENTENCE_END.split(paragraph)
        if 8 <= len(sentence.split()) <= 40 and "---" not in sentence and _PLAIN.fullmatch(sentence)
    )
    return tuple(dict.fromkeys(found))


def _paragraphs() -> Iterator[str]:
    for text in _texts():
        for paragraph in re.split(r"\n\s*\n", text):
            yield " ".join(paragraph.split())


def _texts() -> Iterator[str]:
    """Descriptions of data sets, then the docstrings of all modules, classes and functions."""
    learn, image = fetch_wheel("scikit-learn==1.9.1") / "sklearn", fetch_wheel("scikit-image==0.25.2") / "skimage"
    for path in sorted((learn / "datasets" / "descr").glob("*.rst")):
        yield path.read_text(encoding="utf-8")
    for package in (image, learn):
        for path in sorted(package.rglob("*.py")):
            if not {"tests", "externals", "conftest.py"} & set(path.parts):
                for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                        yield ast.get_docstring(node) or ""
