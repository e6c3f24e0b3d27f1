"""Reader of a folder of paraphrases as training data."""

from collections.abc import Iterator
from pathlib import Path

from braidlm.arch.paraphrase import ParaphraseSource
from braidlm.data.corpora import Document
from braidlm.data.paraphrase.folder import MANIFEST, PAIRS, read_manifest, read_pairs
from braidlm.data.passages import named
from braidlm.errors import InputError


def pairs_file(source: ParaphraseSource) -> Path:
    """Return the file of a folder of paraphrases that holds them.

    Raises:
        InputError: no such folder, or one of something else.
    """
    folder, path = Path(source.path), Path(source.path) / PAIRS
    if not folder.is_dir():
        raise InputError(
            f"source '{source.name}': path = '{source.path}' is no folder: give one that "
            "`braid paraphrase` made"
        )
    if not path.is_file():
        raise InputError(
            f"source '{source.name}': {folder} holds no {PAIRS}: give a folder that "
            "`braid paraphrase` made to its end"
        )
    if (folder / MANIFEST).exists():
        read_manifest(folder)
    return path


def read_paraphrases(source: ParaphraseSource) -> Iterator[Document]:
    """Yield each paraphrase behind its text, in the half that the text's name says.

    A text that has two names is in the half of the first.

    Raises:
        InputError: as `pairs_file`, a damaged line, or an empty text or paraphrase.
    """
    path = pairs_file(source)
    names: dict[str, str] = {}
    for pair in read_pairs(source.path):
        for field in ("text", "paraphrase"):
            if not getattr(pair, field).strip():
                raise InputError(f'{path}: {pair.id}: field "{field}" is empty')
        name = names.setdefault(named(pair.text), pair.text_id or pair.id)
        yield Document(pair.id, pair.paraphrase, pair.text, name)
