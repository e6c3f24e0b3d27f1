"""Prompts and answers to learn: of records with two fields, or of a data set of recall tasks.

A data set's pair is the prompt of its task and the first accepted answer, parted by a space:

    prompt    "The tower was built in 1887.\\n\\nQuestion: When was it built?\\nAnswer:"
    answer    " 1887"

Questions about one document are in one half: what is learnt in training is about no document that
is asked about in the other.
"""

from collections.abc import Iterator

from braidlm.arch.experiment import FileSource
from braidlm.arch.pairs import PairsSource
from braidlm.arch.paraphrase import ParaphraseSource
from braidlm.data.corpora import Document, read_corpus, read_records
from braidlm.data.cutting import words_of
from braidlm.data.paraphrases import read_paraphrases
from braidlm.data.passages import Passage, following, named
from braidlm.data.recall import cut_passage, read_passages
from braidlm.data.records import text_of
from braidlm.data.seeding import TRAIN, generator
from braidlm.data.tokenizer import Tokenizer
from braidlm.errors import InputError


def read_documents(source: FileSource, tokenizer: Tokenizer | None = None) -> Iterator[Document]:
    """Yield the documents, or the pairs, of a source in a fixed order.

    Args:
        source: where they are.
        tokenizer: counts what is cut to `length`; None: nothing is cut.

    Raises:
        InputError: as `read_corpus`, `read_records` and `read_passages`, or an empty answer; the
            message names file and line.
    """
    if isinstance(source, ParaphraseSource):
        yield from read_paraphrases(source)
    elif not isinstance(source, PairsSource):
        yield from read_corpus(source)
    elif source.dataset is None:
        yield from _of_records(source)
    else:
        yield from _of_passages(source, tokenizer)


def _of_records(source: PairsSource) -> Iterator[Document]:
    fields = (source.prompt, source.answer)
    for record in read_records(source, fields):
        prompt, answer = (text_of(record.fields, f, record.where) for f in fields)
        if not answer.strip():
            raise InputError(f'{record.where}: field "{source.answer}" is empty: nothing to learn')
        yield Document(record.id, answer, prompt, named(prompt))


def _of_passages(source: PairsSource, tokenizer: Tokenizer | None) -> Iterator[Document]:
    assert source.dataset is not None
    words = None
    for passage in read_passages(source, source.dataset):
        document = passage.document
        if not passage.answers[0].strip():
            raise InputError(f"source '{source.name}': the answer of {passage.id} is empty")
        if source.length and tokenizer is not None:
            # Questions about one document follow each other.
            if words is None or words.text != document:
                words = words_of(document, tokenizer)
            room = source.length - 2 - len(tokenizer.encode(_answer(source, passage)))
            rng = generator(0, TRAIN, "cut", passage.id)
            how = (source.reads, source.question_first)
            # What fits in no way stays as it is, for `too_long` to say what becomes of it.
            document = cut_passage(passage, words, room, tokenizer, rng, *how) or document
        prompt = passage.prompt(document, source.reads, source.question_first)
        yield Document(passage.id, following(prompt, passage.answers[0]), prompt, passage.cluster)


def _answer(source: PairsSource, passage: Passage) -> str:
    prompt = passage.prompt("", source.reads, source.question_first)
    return following(prompt, passage.answers[0])
