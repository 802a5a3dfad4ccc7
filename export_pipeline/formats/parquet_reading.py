"""Reading Parquet files back: row group by row group, with their checksums, and damage told as ours."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO

from export_pipeline.errors import IncompleteError

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow import parquet


def opened(file: BinaryIO) -> "parquet.ParquetFile":
    """Open a finished file. Raises IncompleteError where it is not Parquet."""
    import pyarrow as pa  # imported here: it costs half a second
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(file, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(error) from None


def row_groups(file: BinaryIO, columns: Sequence[str] | None = None) -> Iterator["pa.Table"]:
    """Yield a file's row groups one by one: iterating over batches would read far ahead. Raises IncompleteError."""
    import pyarrow as pa

    table = opened(file)
    for number in range(table.num_row_groups):
        try:
            yield table.read_row_group(number, columns, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise _damaged(error) from None


def _damaged(error: Exception) -> IncompleteError:
    return IncompleteError(f"the file is not Parquet to its end ({type(error).__name__})")
