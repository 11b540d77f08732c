"""Protocol buffers, in which TensorFlow writes the entries of an index, and ONNX its graphs."""

from collections.abc import Iterator

from gpt2_from_scratch.checkpoint.binary import Cursor
from gpt2_from_scratch.errors import FormatError

_MOST_FIELDS = 100_000  # of one message: an ONNX graph of the 1558M model has some 12,000 operations


def fields(message: Cursor) -> Iterator[tuple[int, int | Cursor]]:
    """The fields of a message, in its order.

    Args:
        message: read from its beginning to its end.

    Yields:
        The field's number, and an integer or a cursor over its bytes: a text, packed numbers or a message again.

    Raises:
        FormatError: it is no message, or has more fields than any checkpoint needs.

    Example:
        >>> import io
        >>> data = bytes.fromhex("08 96 01 12 02 68 69")
        >>> number, text = fields(Cursor(io.BytesIO(data), len(data), "x"))
        >>> number, text[1].text(2)
        ((1, 150), 'hi')
    """
    for _ in range(_MOST_FIELDS):
        if not message.left:
            return
        tag = message.varint()
        match tag & 7:
            case 0:
                yield tag >> 3, message.varint()
            case 1:
                yield tag >> 3, message.unsigned(8)
            case 2:
                yield tag >> 3, message.part(message.varint())
            case 5:
                yield tag >> 3, message.unsigned(4)
            case kind:
                raise FormatError(f"{message.where} is damaged: a field of unknown kind {kind}")
    if message.left:
        raise FormatError(f"{message.where} is damaged, or no GPT-2: a message in it has over {_MOST_FIELDS:,} fields")
