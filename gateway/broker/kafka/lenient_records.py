"""Reading on past records whose headers' names are not UTF-8: Kafka stores them, and aiokafka fails over them for good.

Its fetcher requests the same place again, and fails again. So one record of another producer would end each reader of
its topic, and on the control topic the watch of every replica.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, SupportsIndex, overload

from aiokafka.record.default_records import DefaultRecordBatch, _DefaultRecordBatchPy
from aiokafka.record.memory_records import _MemoryRecordsPy


class LenientRecords(_MemoryRecordsPy):  # type: ignore[misc]  # it has no annotations
    """The batches of an answer, in the place of aiokafka's `MemoryRecords`."""

    def next_batch(self) -> Any:  # noqa: ANN401 - aiokafka's own
        """Return the next batch, which is read as usual as far as that can be done."""
        content = self._next_slice
        batch = super().next_batch()
        return _Batch(batch, content) if isinstance(batch, DefaultRecordBatch) else batch


class _Batch:
    """A batch that aiokafka's compiled code reads, and its slower code in Python from the first bad name on."""

    def __init__(self, batch: Any, content: memoryview) -> None:  # noqa: ANN401 - aiokafka's own
        self._batch = batch
        self._content = content

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - aiokafka's own
        return getattr(self._batch, name)

    def __next__(self) -> Any:  # noqa: ANN401 - aiokafka's own
        return next(self._batch)  # how the kind of a control record is looked at

    def __iter__(self) -> Iterator[Any]:
        count = 0
        try:
            for record in self._batch:
                count += 1
                yield record
        except UnicodeDecodeError:
            yield from islice(_LenientBatch(self._content), count, None)


class _LenientBatch(_DefaultRecordBatchPy):  # type: ignore[misc]  # it has no annotations
    _buffer: Any

    def _maybe_uncompress(self) -> None:
        super()._maybe_uncompress()
        self._buffer = _Text(self._buffer)


class _Text(bytes):
    """Bytes whose parts are decoded with U+FFFD for what is not UTF-8."""

    @overload
    def __getitem__(self, at: SupportsIndex, /) -> int: ...
    @overload
    def __getitem__(self, at: slice, /) -> bytes: ...
    def __getitem__(self, at: SupportsIndex | slice, /) -> int | bytes:
        part = super().__getitem__(at)
        return part if isinstance(part, int) else _Text(part)

    def decode(self, encoding: str = "utf-8", errors: str = "replace") -> str:  # noqa: ARG002 - as aiokafka calls it
        return str(self, encoding, "replace")
