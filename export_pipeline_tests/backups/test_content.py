import hashlib
from typing import Any

from bson import encode
from hypothesis import given
from hypothesis import strategies as st

from export_pipeline.backups.content import UnorderedContent, content_sha256, ordered_content
from export_pipeline.mongo.bson_stream import Piece, whole_documents
from export_pipeline_tests.backups.made import part

documents = st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(0, 3) | st.text(max_size=2)), max_size=5)


def piece_of(found: list[dict[str, Any]]) -> Piece:
    data = b"".join(map(encode, found))
    return Piece(data, whole_documents(data)[0])


def sum_of(found: list[dict[str, Any]]) -> str:
    content = UnorderedContent()
    content.add(piece_of(found))
    return content.sha256()


@given(documents, st.randoms())
def test_neither_the_order_of_documents_nor_of_fields_matters_where_there_is_none(found, random) -> None:  # type: ignore[no-untyped-def]
    shuffled = [dict(random.sample(list(document.items()), len(document))) for document in found]
    random.shuffle(shuffled)
    assert sum_of(shuffled) == sum_of(found)


@given(documents, documents)
def test_other_documents_have_another_sum(found, others) -> None:  # type: ignore[no-untyped-def]
    as_sets = [sorted(sorted(document.items(), key=str).__repr__() for document in each) for each in (found, others)]
    assert (sum_of(found) == sum_of(others)) == (as_sets[0] == as_sets[1])


def test_sums_of_parts_are_the_sum_of_the_whole() -> None:
    whole: list[dict[str, Any]] = [{"n": number} for number in range(10)]
    parts = [part(documents_sum=sum_of(whole[:4])), part(documents_sum=sum_of(whole[4:]))]
    assert content_sha256("unordered", parts) == sum_of(whole)


def test_a_document_that_moves_to_the_next_part_changes_what_is_ordered() -> None:
    first, second = hashlib.sha256(b"1").hexdigest(), hashlib.sha256(b"2").hexdigest()
    assert ordered_content([(1, first), (1, second)]) != ordered_content([(1, second), (1, first)])
    assert ordered_content([(2, first)]) != ordered_content([(1, first)])
