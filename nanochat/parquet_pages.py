"""
How large the pages of a parquet file are once they are unpacked, before they are.

What the footer of a file says of sizes binds nobody: pyarrow takes the memory that the header in front of each page
names. So these headers are read here. They are structs in Thrift's compact protocol: PageHeader of parquet.thrift,
field 2 the size unpacked, field 3 the size in the file.
"""
import io

from nanochat.common import UserError

HEADER = 2 ** 16   # bytes of a header at most: the statistics in it hold the least and the largest text


def largest_page(file, column):
    """
    Bytes of the largest page, unpacked, of a column chunk (pyarrow's ColumnChunkMetaData) in an open file. UserError
    where its headers can't be read.
    """
    begins = [offset for offset in (column.dictionary_page_offset, column.data_page_offset) if offset]
    at, largest = min(begins, default=0), 0
    end = at + column.total_compressed_size
    while at < end:
        file.seek(at)
        header = io.BytesIO(file.read(HEADER))
        try:
            found = _struct(header)
            unpacked, packed = found[2], found[3]
            if min(unpacked, packed) < 0:
                raise UserError("a page of a negative size")
        except (KeyError, IndexError, TypeError, OverflowError, RecursionError) as error:
            raise UserError("a page without a header") from error
        at, largest = at + header.tell() + packed, max(largest, unpacked)
    return largest


def _varint(header):
    value = shift = 0
    while True:
        byte = header.read(1)[0]   # IndexError at the end
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value


def _integer(header):
    value = _varint(header)
    return value >> 1 ^ -(value & 1)


def _struct(header):
    """{field: integer} of a struct; fields of other types are passed over."""
    found, field = {}, 0
    while (head := header.read(1)[0]) & 15:
        field = field + (head >> 4) if head >> 4 else _integer(header)
        found[field] = _value(header, head & 15)
    return found


def _value(header, kind):
    if kind in (1, 2):                     # true and false are in the head of their field
        return None
    if kind in (3, 7):                     # byte, double
        header.seek({3: 1, 7: 8}[kind], io.SEEK_CUR)
        return None
    if kind in (4, 5, 6):
        return _integer(header)
    if kind == 8:
        header.seek(_varint(header), io.SEEK_CUR)
        return None
    if kind == 12:
        _struct(header)
        return None
    raise IndexError("PageHeader holds no lists and maps")
